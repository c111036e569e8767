"""The images and texts that the rows of a list name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from vlkit.capfilt.fetching import kept_copy, local_path, reason, tried
from vlkit.capfilt.inputs import InputOptions, InputShard, Item, Refused
from vlkit.capfilt.lists import Damage, Place, Row, read_list
from vlkit.capfilt.names import fault
from vlkit.capfilt.stores import Store, store_of
from vlkit.capfilt.texts import Fault, caption
from vlkit.datasets.annotation_formats import short
from vlkit.datasets.shard_names import IMAGES
from vlkit.errors import VlkitError

_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n", "png"))


def suffix_of(path: str) -> str:
    """The suffix of a file or address, in lower case."""
    return os.path.splitext(re.split(r"[?#]", path)[0] if "://" in path else path)[1].lower()


def read_rows(shard: InputShard, options: InputOptions) -> Iterator[Item | Refused]:
    """Everything that a shard of a list holds.

    The key of a row is its ``key``, if that can be one, else its number in nine digits.

    Args:
        shard: of kind "rows".
        options: limits, and where images are.
    """
    root = options.image_root if options.image_root is not None else folder_of(shard.path)
    seen: set[str] = set()
    begun = False
    try:
        rows = read_list(
            kept_copy(shard.path).file,
            suffix_of(shard.path),
            Place(shard.first, shard.offset),
            shard.count,
            options.max_text_bytes,
        )
        for number, row in rows:
            begun = True
            if isinstance(row, Fault):
                yield Refused(f"{number:09d}", "image", *row)
                continue
            key = _key(number, row)
            yield from _read_row(key, row, root, options, repeated=key in seen)
            seen.add(key)
    except (Damage, OSError) as error:
        detail = str(error) if isinstance(error, Damage) else reason(error)
        yield Refused(shard.name, "shard", "truncated shard" if begun else "unreadable shard", detail)


def folder_of(path: str) -> str:
    """Where a file lies; "" for the working directory."""
    return path.rpartition("/")[0] if local_path(path) is None else str(Path(str(local_path(path))).parent)


def _key(number: int, row: Row) -> str:
    given = row.get("key")
    text = str(given) if isinstance(given, (str, int)) and not isinstance(given, bool) else ""
    if text and not fault(text) and "." not in text.rpartition("/")[2] and text == text.strip():
        return text
    return f"{number:09d}"


def _read_row(key: str, row: Row, root: str, options: InputOptions, repeated: bool) -> Iterator[Item | Refused]:
    image = Fault("duplicate key") if repeated else _image_of(row, root, options)
    text = caption(row, options)
    if isinstance(image, Fault):
        yield Refused(key, "image", *image)
        if isinstance(text, str):
            yield Refused(key, "text", *(image if repeated else Fault("no image", image.reason)))
        return
    if isinstance(text, Fault):
        yield Refused(key, "text", *text)
    fields = {name: value for name, value in row.items() if name != options.caption_key}
    yield Item(key, *image, None if isinstance(text, Fault) else text, fields)


def _image_of(row: Row, root: str, options: InputOptions) -> tuple[bytes, str] | Fault:
    """The encoded image that a row names, and the suffix of its file."""
    if options.image_key not in row:
        advice = "; download the images first, with img2dataset for example" if "url" in row else ""
        return Fault("incomplete row", f"no key {options.image_key!r}{advice}")
    name = row[options.image_key]
    if not isinstance(name, str) or not name.strip():
        return Fault("incomplete row", f"{options.image_key!r} is {short(name)}, not a file name")
    data = _image(name, root, options)
    if isinstance(data, Fault):
        return data
    extension = _extension(name, data)
    if not extension:
        return Fault("undecodable image", f"neither {', '.join(IMAGES)} by its name nor by its content")
    return data, extension


def _image(name: str, root: str, options: InputOptions) -> bytes | Fault:
    """The encoded image, never more than the options allow."""
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
    if isinstance(data, Fault):
        return data
    if len(data) > limit:
        return Fault("oversized image", f"more than {limit} bytes")
    return data or Fault("empty image", "0 bytes")


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
    """What the file is to be called after, so that ``web_shards`` reads it; "": nothing that it reads."""
    suffix = suffix_of(name).lstrip(".")
    if suffix in IMAGES:
        return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((extension for magic, extension in _MAGIC if data.startswith(magic)), "")
