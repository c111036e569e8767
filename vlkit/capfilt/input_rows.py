"""Resolve the images and texts that the rows of a list name."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlkit.capfilt.backends import Store, store_of
from vlkit.capfilt.input_lists import Damage, Row, RowOffset, read_list
from vlkit.capfilt.input_texts import Ambiguous, Fault, RowKeys, captions
from vlkit.capfilt.inputs import InputOptions, InputShard, Item, Refused, fault, kept_copy, local_path, reason, tried
from vlkit.datasets.faults import short
from vlkit.datasets.shard_files import IMAGES, split_name
from vlkit.errors import VlkitError

_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n", "png"))


def suffix_of(path: str) -> str:
    """Return the suffix of a file or address, in lower case."""
    return os.path.splitext(re.split(r"[?#]", path)[0] if "://" in path else path)[1].lower()


def read_rows(shard: InputShard, options: InputOptions) -> Iterator[Item | Refused]:
    """Read a shard of a list.

    The key of a row is its ``key``, if that can be one, else its number in nine digits.

    Args:
        shard: of kind "rows".
        options: limits, and where images are.
    """
    root = options.image_root if options.image_root is not None else folder_of(shard.path)
    seen: set[str] = set()
    keys, begun = RowKeys(options), False
    try:
        rows = read_list(
            kept_copy(shard.path).file,
            suffix_of(shard.path),
            RowOffset(shard.first, shard.offset),
            shard.count,
            options.max_text_bytes,
        )
        for number, row in rows:
            begun = True
            if isinstance(row, Fault):
                yield Refused(f"{number:09d}", "image", *row)
                continue
            key = _key(number, row)
            yield from _RowReader(row, root, keys, options).read(key, repeated=key in seen)
            seen.add(key)
    except (Damage, OSError) as error:
        detail = str(error) if isinstance(error, Damage) else reason(error)
        yield Refused(shard.name, "shard", "truncated shard" if begun else "unreadable shard", detail)


def folder_of(path: str) -> str:
    """Return the folder of a file; "" for the working directory."""
    return path.rpartition("/")[0] if local_path(path) is None else str(Path(str(local_path(path))).parent)


def _key(number: int, row: Row) -> str:
    given = row.get("key")
    text = str(given) if isinstance(given, (str, int)) and not isinstance(given, bool) else ""
    member = split_name(f"{text}.png")  # web_shards has to find the key again
    if text and not fault(text) and text == text.strip() and member is not None and member.key == text:
        return text
    return f"{number:09d}"


@dataclass
class _RowReader:
    """Read one row."""

    row: Row
    root: str
    keys: RowKeys
    options: InputOptions

    def read(self, key: str, repeated: bool) -> Iterator[Item | Refused]:
        """Read the item of the row, or why there is none; ``repeated``: its key is that of an earlier row."""
        image = Fault("duplicate key") if repeated else self._image()
        found = captions(self.row, self.keys, self.options)
        texts = tuple(each for each in found if isinstance(each, str))
        if isinstance(image, Fault):
            yield Refused(key, "image", *image)
            yield from [Refused(key, "text", *(image if repeated else Fault("no image", image.reason)))] * len(texts)
            return
        yield from (Refused(key, "text", *each) for each in found if isinstance(each, Fault))
        yield Item(key, *image, texts, self._fields())

    def _fields(self) -> dict[str, Any]:
        """Return the other data: neither captions nor encoded images, but the names of image files."""
        own = self.keys.image(self.row)
        with contextlib.suppress(Ambiguous):
            caption = self.keys.caption(self.row)
            found = {name: _field(value) for name, value in self.row.items() if name != caption}
            if own is not None and (isinstance(self.row[own], bytes) or found[own] is None):
                del found[own]
            return found
        return {name: _field(value) for name, value in self.row.items() if name != own}

    def _image(self) -> tuple[bytes, str] | Fault:
        """Read the encoded image that the row names or holds, and the suffix of its file."""
        try:
            key = self.keys.image(self.row)
        except Ambiguous as error:
            return Fault("incomplete row", str(error))
        if key is None:
            advice = "; download the images first, with img2dataset for example" if "url" in self.row else ""
            return Fault("incomplete row", f"no key {self.keys.wanted_image!r}{advice}")
        given = self.row[key]
        # A struct of bytes and path, as Hugging Face writes it; one of them may be null.
        data, name = (given.get("bytes"), given.get("path")) if isinstance(given, dict) else (given, given)
        if isinstance(data, bytes):
            name, found = name if isinstance(name, str) else "", _checked(data, self.options)
        elif name is None:
            what = "null" if given is None else short(given)
            return Fault("no image", f"{key!r} is {what}{_why_null(self.row)}")
        elif not isinstance(name, str) or not name.strip():
            return Fault("incomplete row", f"{key!r} is {short(given)}, neither a file name nor an image")
        else:
            found = _image(name, self.root, self.options)
        if isinstance(found, Fault):
            return found
        extension = _extension(name, found)
        if not extension:
            return Fault("undecodable image", f"neither {', '.join(IMAGES)} by its name nor by its content")
        return found, extension


def _field(value: Any) -> Any:
    """Return a value without encoded files: of a struct of bytes and path the path."""
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return value["path"]
    return f"{len(value)} bytes" if isinstance(value, bytes) else value


def _image(name: str, root: str, options: InputOptions) -> bytes | Fault:
    """Read an encoded image, never more than the options allow."""
    limit = options.max_image_bytes
    if re.match("https?://", name):
        return Fault("missing image file", "an address: download the images first, with img2dataset for example")
    path = name if "://" in name else os.path.join(root, name) if local_path(root) else f"{root.rstrip('/')}/{name}"
    here = local_path(path)
    data: bytes | Fault
    try:
        if here:
            data = tried(lambda: _local(here, limit), path)
        else:
            data = tried(lambda: _remote(path, limit), path, Exception)
    except OSError as error:
        return Fault("missing image file", reason(error))
    except (ValueError, VlkitError):  # a zero byte, half of a surrogate pair; an address that nothing reads
        return Fault("missing image file", "no name of a file")
    return data if isinstance(data, Fault) else _checked(data, options)


def _checked(data: bytes, options: InputOptions) -> bytes | Fault:
    if len(data) > options.max_image_bytes:
        return Fault("oversized image", f"more than {options.max_image_bytes} bytes")
    return data or Fault("empty image", "0 bytes")


def _why_null(row: Row) -> str:
    """Return what img2dataset says about an image that it did not get."""
    said = [f"{name} {short(row[name])}" for name in ("status", "error_message") if isinstance(row.get(name), str)]
    return f"; {', '.join(said)}" if said else ""


def _local(path: Path, limit: int) -> bytes | Fault:
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):  # a pipe would never end
        return Fault("missing image file", "a folder" if stat.S_ISDIR(facts.st_mode) else "no regular file")
    if facts.st_size > limit:
        return Fault("oversized image", f"{facts.st_size} bytes, {limit} allowed")
    with open(path, "rb") as file:
        return file.read(facts.st_size + 1)  # no more: room for it is made before


def _remote(path: str, limit: int) -> bytes:
    folder, _, name = path.rpartition("/")
    with _store(folder).open(name) as file:
        return file.read(limit + 1)


@lru_cache(maxsize=64)
def _store(folder: str) -> Store:
    return store_of(folder)


def _extension(name: str, data: bytes) -> str:
    """Return the suffix under which ``web_shards`` reads the file; "": it reads none like it."""
    suffix = suffix_of(name).lstrip(".")
    if suffix in IMAGES:
        return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((extension for magic, extension in _MAGIC if data.startswith(magic)), "")
