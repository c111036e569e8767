"""Index of the samples in a webdataset shard (a tar file), for random access."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from vlkit.datasets.faults import listed
from vlkit.datasets.shard_files import IMAGES, escaped, is_further_image, split_name, why_not_tar
from vlkit.errors import DataError, VlkitError
from vlkit.io.cache import cache_dir
from vlkit.io.files import atomic_write

ROW = np.dtype(
    [
        ("image", "<i8"),
        ("image_size", "<i4"),
        ("text", "<i8"),
        ("text_size", "<i4"),
        ("json", "<i8"),
        ("json_size", "<i4"),
    ]
)
"""One sample: byte offsets and sizes of its image, its text file and its JSON (offset -1: there is none)."""
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
"""Kinds of :func:`entries` that are files with their bytes stored unchanged in the tar."""
_VERSION = 2
_LARGEST = 2**31 - 1  # bytes; larger than any image or caption
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LARGEST_HEADER = 2**20  # bytes of an extended one
_LARGEST_END = 2**20  # bytes; programs that write tapes fill their last record with zeros


@dataclass(frozen=True)
class TarIndex:
    """The samples of one shard, in its order.

    Args:
        rows: of dtype ``ROW``.
        keys: names of the samples, UTF-8, one after the other: uint8.
        ends: int64 [samples], the end of each key.
        problems: clauses about parts of the file that cannot be used.
        unread: suffix (``.npy``, ``.seg.png``) to number of members of samples that are neither image nor text.
    """

    rows: np.ndarray
    keys: np.ndarray
    ends: np.ndarray
    problems: list[str]
    unread: dict[str, int]


def index_of(shard: Path, image_key: str | None = None) -> TarIndex:
    """Return the index of ``shard``, from the cache if the file has not changed since.

    Args:
        shard: a tar file.
        image_key: as for :func:`scan`.

    Raises:
        DataError: the file cannot be read, or is no tar file.
    """
    try:
        facts = shard.stat()
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror}).") from error
    identity = f"{_VERSION} {image_key} {shard.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    cached = cache_dir() / "tar_index" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(cached) as found:
        return TarIndex(found["rows"], found["keys"], found["ends"], **json.loads(found["said"].tobytes()))
    index = scan(shard, image_key)
    # If the cache cannot be written, the next run reads the headers again.
    with contextlib.suppress(VlkitError, OSError), atomic_write(cached) as file:
        said = json.dumps({"problems": index.problems, "unread": index.unread}).encode()
        np.savez(file, rows=index.rows, keys=index.keys, ends=index.ends, said=np.frombuffer(said, np.uint8))
    return index


def scan(shard: Path, image_key: str | None = None) -> TarIndex:
    """Return the index of ``shard`` from the headers of its members, grouped by
    :func:`~vlkit.datasets.shard_files.split_name`.

    Names are only keys: no file is written under them. Samples before a damaged part are kept. Of several members with
    one key and kind, the first is kept.

    Args:
        shard: a tar file.
        image_key: the suffix of the images; None: any that is read.

    Raises:
        DataError: the file is no tar file.
    """
    listing = _Listing(shard, image_key)
    samples = {key: parts for key, parts in listing.samples.items() if "image" in parts}
    for key in [key for key in samples if is_further_image(key, samples)]:
        base = key.rpartition("/")[2]
        listing.unread[f".{base.partition('.')[2]}.{samples.pop(key)['image'].suffix}"] += 1
    rows = np.zeros(len(samples), ROW)
    for row, parts in zip(rows, samples.values()):
        for kind, name in (("image", "image"), ("txt", "text"), ("json", "json")):
            row[name], row[f"{name}_size"] = parts[kind][:2] if kind in parts else (-1, 0)
    encoded = [key.encode("utf-8", "surrogateescape") for key in samples]
    ends = np.cumsum([len(key) for key in encoded], dtype=np.int64)
    return TarIndex(
        rows, np.frombuffer(b"".join(encoded), np.uint8), ends, listing.problems(), dict(sorted(listing.unread.items()))
    )


class _Part(NamedTuple):
    start: int
    size: int
    suffix: str


class _Listing:
    """Members of a shard by key and kind, and those that cannot be used.

    Attributes:
        samples: key to kind to position, in the order of the first members.
        unread: suffixes of members that are not part of a sample.
    """

    def __init__(self, shard: Path, image_key: str | None):
        self.samples: dict[str, dict[str, _Part]] = {}
        self._image_key = image_key
        self.unread: Counter[str] = Counter()
        self._left_out: dict[str, list[str]] = {what: [] for what in _LEFT_OUT}
        self._count, self._damage = 0, ""
        try:
            for name, start, size, kind in entries(shard):
                self._count += kind != tarfile.DIRTYPE
                self._add(name, start, size, kind)
        except tarfile.ReadError as error:
            if not self.samples:
                reason = why_not_tar(shard) or error
                raise DataError(f"{shard}: not a tar file, or useless from its first sample on ({reason}).") from error
            self._damage = f"after sample {escaped(next(reversed(self.samples)))!r} it cannot be read on ({error})"
        except OSError as error:
            raise DataError(f"{shard}: cannot be read ({error}).") from error

    def problems(self) -> list[str]:
        """Return clauses about members that are skipped."""
        found = [self._damage] if self._damage else []
        found += [
            f"{len(names)} {_LEFT_OUT[what]} ({listed(names)})" for what, names in self._left_out.items() if names
        ]
        lone = [escaped(key) for key, parts in self.samples.items() if "image" not in parts]
        found += [f"{len(lone)} samples have no image ({listed(lone)})"] if lone else []
        return found if self._count else [*found, "it is a tar without members"]

    def _add(self, name: str, start: int, size: int, type: bytes) -> None:
        found = split_name(name, self._image_key)
        if type == tarfile.DIRTYPE or found is None:
            return
        if not found.kind:
            self.unread[f".{found.suffix}" if found.suffix else "without a suffix"] += 1
            return
        kind = found.kind
        what = _fault(found.key, kind, type, size)
        parts = self.samples.setdefault(found.key, {}) if not what else {}
        if kind in parts:
            what = "repeated"
        if what:
            self._left_out[what].append(escaped(name))
        else:
            parts[kind] = _Part(start, size, found.suffix)


_LEFT_OUT = {
    "repeated": "members repeat an earlier one and are left out",
    "link": "members are links, not files, and are left out",
    "sparse": "members are sparse files and are left out: pack without --sparse",
    "large": "members of 2 GiB or more are left out",
    "nameless": "members have no key before their suffix and are left out",
    "other image": f"images of a kind that is not read are left out: {', '.join(IMAGES)} are read",
}
"""Reasons to skip members, and their messages."""


def _fault(key: str, kind: str, type: bytes, size: int) -> str:
    """Return the key of ``_LEFT_OUT`` for a member, or ""."""
    if type == tarfile.GNUTYPE_SPARSE:
        return "sparse"
    if type not in FILES:
        return "link"
    if not key or key.endswith("/"):
        return "nameless"
    return "other image" if kind == "other image" else "large" if size > _LARGEST else ""


def members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset in bytes and size of every file in a tar (ustar, GNU, PAX), in order; see :func:`entries`."""
    return ((name, start, size) for name, start, size, kind in entries(shard) if kind in FILES)


def entries(shard: Path) -> Iterator[tuple[str, int, int, bytes]]:
    """Yield name, offset in bytes, size and kind (``tarfile.LNKTYPE``, ...) of every entry of a tar, in order.

    Only headers are read, and memory does not depend on the sizes that they claim. (``tarfile`` takes four times as
    long, and a shard has 30,000 headers.)

    Raises:
        tarfile.ReadError: the file ends early or is damaged after the yielded entries.
        OSError: it cannot be read.
    """
    # Not memory-mapped: a network file that shrinks or fails meanwhile would end the process with SIGBUS.
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
            if kind in (*_PAX, tarfile.GNUTYPE_LONGNAME):
                if size > _LARGEST_HEADER:
                    raise tarfile.ReadError(f"a header of {size} bytes")
                data = _block(file, start, size)
                longer.update(_pax(data) if kind in _PAX else {"path": _text(data)})
            elif kind not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                if kind == tarfile.GNUTYPE_SPARSE:
                    skipped = _sparse_blocks(file, start, block) * tarfile.BLOCKSIZE
                    start, place = start + skipped, place + skipped
                sparse = any(key.startswith("GNU.sparse.") for key in longer)
                name = longer.get("GNU.sparse.name") or longer.get("path") or _name(block)
                yield name, start, size, tarfile.GNUTYPE_SPARSE if sparse else kind
                longer = {}
        if length - place > _LARGEST_END or _block(file, place, _LARGEST_END).strip(b"\0"):
            raise tarfile.ReadError("after its end mark there is more, or a long stretch of zeros")


def _block(file: IO[bytes], place: int, size: int = tarfile.BLOCKSIZE) -> bytes:
    file.seek(place)
    return file.read(size)


def _sparse_blocks(file: IO[bytes], place: int, block: bytes) -> int:
    """Return the number of blocks after the header of a sparse file that describe its holes."""
    count, more = 0, block[482:483]
    while more not in (b"", b"\0"):
        more = _block(file, place + count * tarfile.BLOCKSIZE)[504:505]
        count += 1
    return count


def _number(field: bytes) -> int:
    """Parse a number of a header: octal digits, or binary after the byte 0x80 if they do not fit."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)


def _sums(block: bytes) -> tuple[int, int]:
    """Return the valid checksums of a header: of unsigned and, from old programs, of signed bytes."""
    unsigned = 256 + sum(block[:148]) + sum(block[156:])
    if block.isascii():
        return unsigned, unsigned
    return unsigned, unsigned - 256 * sum(byte > 127 for byte in (*block[:148], *block[156:]))


def _name(block: bytes) -> str:
    folder = _text(block[345:500]) if block[257:263] == tarfile.POSIX_MAGIC[:6] else ""
    return f"{folder}/{_text(block[:100])}" if folder else _text(block[:100])


def _pax(records: bytes) -> dict[str, str]:
    """Parse the records ``<length> <key>=<value>`` of a PAX header, each with a line feed at its end."""
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
