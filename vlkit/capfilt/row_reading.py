"""The images and texts that the rows of a list name."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlkit.capfilt.fetching import kept_copy, local_path, reason, tried
from vlkit.capfilt.inputs import InputOptions, InputShard, Item, Refused
from vlkit.capfilt.lists import Damage, Place, Row, read_list
from vlkit.capfilt.names import fault
from vlkit.capfilt.stores import Store, store_of
from vlkit.capfilt.texts import Fault, caption
from vlkit.datasets.annotation_formats import lacks, short
from vlkit.datasets.tar_index import IMAGES

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
            key = _key(number, row)
            if key in seen:
                yield from _refused(key, Fault("duplicate key"), row, options)
                continue
            seen.add(key)
            yield from _read_row(key, row, root, options)
    except (Damage, OSError) as error:
        detail = str(error) if isinstance(error, Damage) else reason(error)
        yield Refused(shard.name, "shard", "truncated shard" if begun else "unreadable shard", detail)


def folder_of(path: str) -> str:
    """Where a file lies; "" for the working directory."""
    return path.rpartition("/")[0] if local_path(path) is None else str(Path(str(local_path(path))).parent)


def _key(number: int, row: Row | Fault) -> str:
    given = row.get("key") if isinstance(row, dict) else None
    text = str(given) if isinstance(given, (str, int)) and not isinstance(given, bool) else ""
    if text and not fault(text) and "." not in text.rpartition("/")[2] and text == text.strip():
        return text
    return f"{number:09d}"


def _read_row(key: str, row: Row | Fault, root: str, options: InputOptions) -> Iterator[Item | Refused]:
    problem = row if isinstance(row, Fault) else _row_fault(row, options)
    if problem is not None or isinstance(row, Fault):
        yield from _refused(key, problem or Fault("incomplete row"), row, options)
        return
    name = row[options.image_key]
    data = _image(name, root, options)
    extension = data if isinstance(data, Fault) else _extension(name, data)
    if isinstance(data, Fault) or isinstance(extension, Fault):
        yield from _refused(key, extension, row, options)
        return
    text = caption(row, options)
    if isinstance(text, Fault):
        yield Refused(key, "text", *text)
    fields = {name: value for name, value in row.items() if name != options.caption_key}
    yield Item(key, data, extension, None if isinstance(text, Fault) else text, fields)


def _refused(key: str, problem: Any, row: Row | Fault, options: InputOptions) -> Iterator[Refused]:
    """An image that cannot be used, and its text if it has one."""
    yield Refused(key, "image", *problem)
    if isinstance(row, dict) and isinstance(caption(row, options), str):
        duplicate = problem.reason == "duplicate key"
        yield Refused(key, "text", *(problem if duplicate else Fault("no image", problem.reason)))


def _row_fault(row: Row, options: InputOptions) -> Fault | None:
    if options.image_key not in row:
        advice = " Its image has to be downloaded: img2dataset does that." if "url" in row else ""
        return Fault("incomplete row", lacks(options.image_key, dict.fromkeys(list(row)[:10]))[:300] + advice)
    name = row[options.image_key]
    if not isinstance(name, str) or not name.strip():
        return Fault("incomplete row", f"{options.image_key!r} is {short(name)}, not a file name")
    return None


def _image(name: str, root: str, options: InputOptions) -> bytes | Fault:
    """The encoded image, never more than the options allow."""
    limit = options.max_image_bytes
    if re.match("https?://", name):
        return Fault("missing image file", "an address: download the images first, with img2dataset for example")
    path = name if "://" in name else os.path.join(root, name) if local_path(root) else f"{root.rstrip('/')}/{name}"
    here = local_path(path)
    try:
        data = tried(lambda: _local(here, limit) if here else _remote(path, limit), path, Exception)
    except OSError as error:
        known = errno.ENAMETOOLONG, errno.ELOOP
        return Fault("missing image file", "a name too long" if error.errno in known else reason(error))
    if isinstance(data, Fault):
        return data
    if len(data) > limit:
        return Fault("oversized image", f"more than {limit} bytes")
    return data or Fault("empty image", "0 bytes")


def _local(path: Path, limit: int) -> bytes | Fault:
    if "\0" in str(path):
        return Fault("missing image file", "a name with a zero byte")
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):  # a pipe would never end
        return Fault("missing image file", "a folder" if stat.S_ISDIR(facts.st_mode) else "no regular file")
    if facts.st_size > limit:
        return Fault("oversized image", f"{facts.st_size} bytes, {limit} allowed")
    with open(path, "rb") as file:
        return file.read(limit + 1)


def _remote(path: str, limit: int) -> bytes:
    folder, _, name = path.rpartition("/")
    with _store(folder).open(name) as file:
        return file.read(limit + 1)


@lru_cache(maxsize=64)
def _store(folder: str) -> Store:
    return store_of(folder)


def _extension(name: str, data: bytes) -> str | Fault:
    """What the file is to be called after, so that ``web_shards`` reads it."""
    suffix = suffix_of(name).lstrip(".")
    if suffix in IMAGES:
        return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    found = next((extension for magic, extension in _MAGIC if data.startswith(magic)), None)
    return found or Fault("undecodable image", f"neither {', '.join(IMAGES)} by its name nor by its content")
