"""Where the samples of a webdataset shard (a tar file) lie, so that any of them is read without what is before it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from vlkit.errors import DataError, VlkitError
from vlkit.io import atomic_write, cache_dir

IMAGES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("txt", "json")
ROW = np.dtype([("image", "<i8"), ("image_size", "<i4"), ("text", "<i8"), ("text_size", "<i4"), ("json", "?")])
"""One sample: byte offsets and sizes of its image and text (offset -1: no text), and whether the text is JSON."""
_VERSION = 1
_LARGEST = 2**31 - 1  # bytes; nothing that can be an image or a caption
_LARGEST_HEADER = 2**20  # bytes of an extended one
_LARGEST_END = 2**20  # bytes; programs that write tapes fill their last record with zeros


@dataclass(frozen=True)
class TarIndex:
    """The samples of one shard, in its order.

    Args:
        rows: of dtype ``ROW``.
        keys: names of the samples, UTF-8, one after the other: uint8.
        ends: int64 [samples], where each key ends.
        problems: clauses about what of the file cannot be used.
    """

    rows: np.ndarray
    keys: np.ndarray
    ends: np.ndarray
    problems: list[str]


def index_of(shard: Path) -> TarIndex:
    """The index of ``shard``, from the cache if the file has not changed since.

    Raises:
        DataError: the file cannot be read, or is no tar file.
    """
    try:
        facts = shard.stat()
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}).") from error
    identity = f"{_VERSION} {shard.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    cached = cache_dir() / "tar_index" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(cached) as found:
        return TarIndex(found["rows"], found["keys"], found["ends"], json.loads(found["problems"].tobytes()))
    index = scan(shard)
    # A cache that cannot be written is fine: the next run reads the headers again.
    with contextlib.suppress(VlkitError, OSError), atomic_write(cached) as file:
        problems = np.frombuffer(json.dumps(index.problems).encode(), np.uint8)
        np.savez(file, rows=index.rows, keys=index.keys, ends=index.ends, problems=problems)
    return index


def scan(shard: Path) -> TarIndex:
    """The index of ``shard``, from the headers of its members.

    Names are keys and nothing more: no file is ever written under them. Of a file that ends early, the samples before
    that are kept. Of members with one key and one kind, the first is.

    Raises:
        DataError: the file is no tar file.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    repeated: list[str] = []
    problems = []
    cut = _members(shard, found, repeated)
    if cut:
        problems.append(cut)
    if repeated:
        problems.append(f"{len(repeated)} members repeat an earlier one and are left out ({_few(repeated)})")
    lone = [key for key, parts in found.items() if "image" not in parts]
    if lone:
        problems.append(f"{len(lone)} samples have no image ({_few(lone)})")
    keys = [key for key, parts in found.items() if "image" in parts]
    rows = np.zeros(len(keys), ROW)
    for row, key in zip(rows, keys):
        parts = found[key]
        text = parts.get("txt") or parts.get("json") or (-1, 0)
        row["image"], row["image_size"] = parts["image"]
        row["text"], row["text_size"] = text
        row["json"] = "txt" not in parts and "json" in parts
    encoded = [key.encode("utf-8", "surrogateescape") for key in keys]
    ends = np.cumsum([len(key) for key in encoded], dtype=np.int64)
    return TarIndex(rows, np.frombuffer(b"".join(encoded), np.uint8), ends, problems)


def _members(shard: Path, found: dict[str, dict[str, tuple[int, int]]], repeated: list[str]) -> str:
    """Fills ``found`` (key to kind to place) and ``repeated``; a clause if the file ends early, else ""."""
    from webdataset.tariterators import base_plus_ext

    try:
        for name, start, size in members(shard):
            key, extension = base_plus_ext(name)
            kind = "image" if (extension or "").lower() in IMAGES else (extension or "").lower()
            if key is None or kind not in ("image", *TEXTS) or size > _LARGEST:
                continue
            parts = found.setdefault(key, {})
            if kind in parts:
                repeated.append(name)
            parts.setdefault(kind, (start, size))
    except tarfile.ReadError as error:
        if not found:
            raise DataError(f"{shard}: not a tar file, or useless from its first sample on ({error}).") from error
        return f"after sample {next(reversed(found))!r} it cannot be read on ({error})"
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error}).") from error
    return ""


def members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset in bytes and size of every file in a tar (ustar, GNU or PAX), in order; see :func:`entries`."""
    return ((name, start, size) for name, start, size, kind in entries(shard) if kind in tarfile.REGULAR_TYPES)


def entries(shard: Path) -> Iterator[tuple[str, int, int, bytes]]:
    """Name, offset in bytes, size and kind (``tarfile.LNKTYPE``, ...) of everything in a tar, in order.

    Only headers are looked at, and no size that one of them claims makes anything large. (``tarfile`` takes four times
    as long, and a shard has 30,000 of them.)

    Raises:
        tarfile.ReadError: the file ends early or is damaged, after what was given.
        OSError: it cannot be read.
    """
    # Not mapped: a file on a network that shrinks or fails meanwhile would end the process with SIGBUS.
    with open(shard, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        place, longer = 0, dict[str, str]()
        while (block := _block(file, place)) != bytes(tarfile.BLOCKSIZE):
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("the file ends without an end mark")
            try:
                size = int(longer["size"]) if "size" in longer else _number(block[124:136])
                if _number(block[148:156]) not in _sums(block) or size < 0:
                    raise ValueError
            except ValueError as error:
                raise tarfile.ReadError("a header is damaged") from error
            start, kind = place + tarfile.BLOCKSIZE, block[156:157]
            if start + size > length:
                raise tarfile.ReadError("the file ends inside of a member")
            place = start + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
                if size > _LARGEST_HEADER:
                    raise tarfile.ReadError(f"a header of {size} bytes")
                data = _block(file, start, size)
                longer = _pax(data) if kind == tarfile.XHDTYPE else {"path": _text(data)}
            elif kind != tarfile.XGLTYPE:
                yield longer.get("path") or _name(block), start, size, kind
                longer = {}
        if length - place > _LARGEST_END or _block(file, place, _LARGEST_END).strip(b"\0"):
            raise tarfile.ReadError("after its end mark there is more, or a long stretch of zeros")


def _block(file: IO[bytes], place: int, size: int = tarfile.BLOCKSIZE) -> bytes:
    file.seek(place)
    return file.read(size)


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or binary behind the byte 0x80 where they would not fit."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _sums(block: bytes) -> tuple[int, int]:
    """The checksums of a header that occur: of unsigned and, from old programs, of signed bytes."""
    unsigned = 256 + sum(block[:148]) + sum(block[156:])
    if block.isascii():
        return unsigned, unsigned
    return unsigned, unsigned - 256 * sum(byte > 127 for byte in (*block[:148], *block[156:]))


def _name(block: bytes) -> str:
    folder = _text(block[345:500]) if block[257:263] == tarfile.POSIX_MAGIC[:6] else ""
    return f"{folder}/{_text(block[:100])}" if folder else _text(block[:100])


def _pax(records: bytes) -> dict[str, str]:
    """The records ``<length> <key>=<value>`` and a line feed```` of a PAX header."""
    found, place = {}, 0
    while (space := records.find(b" ", place)) > 0:
        length = records[place:space]
        if not length.isdigit() or int(length) <= space - place:
            break  # padding, or damage
        key, _, value = records[space + 1 : place + int(length) - 1].partition(b"=")
        found[_text(key)] = _text(value)
        place += int(length)
    return found


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _few(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}"
