"""Lists of images with texts, row by row: JSON lines, a list in JSON, Parquet. Never more than some rows in memory.

Rows are counted from 0; blank lines are none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from vlkit.capfilt.texts import Fault, parsed

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_BLOCK = 1 << 16  # bytes read at once
_BATCH = 256  # rows of Parquet decoded at once
_NEXT = re.compile(r"[^\s,]|\Z")
Row = dict[str, Any]


class Damage(Exception):
    """What is wrong with the rest of a list."""


class Place(NamedTuple):
    """Where a row starts: its number, and for JSON the bytes before it."""

    row: int
    offset: int = 0


def cut(file: Path, suffix: str, rows: int, limit: int) -> list[Place]:
    """Where a list is to be cut into shards of ``rows`` rows; none: it has no rows.

    Args:
        file: the list.
        suffix: one of ``SUFFIXES``.
        rows: at least 1.
        limit: bytes of the largest row that is read.

    Raises:
        Damage: it is no list.
        OSError: it cannot be read.
    """
    if suffix == ".parquet":
        with open(file, "rb") as stream:
            return [Place(first) for first in range(0, _parquet(stream).metadata.num_rows, rows)]
    found: list[Place] = []
    with open(file, "rb") as stream:
        try:
            for number, (offset, _) in enumerate(_raw(stream, suffix, None, limit)):
                if number % rows == 0:
                    found.append(Place(number, offset))
        except Damage:  # which is told by whoever reads the last shard
            if not found:
                raise
    return found


def read_list(
    file: Path, suffix: str, first: Place, count: int | None, limit: int
) -> Iterator[tuple[int, Row | Fault]]:
    """Numbers and rows of a list, from ``first`` on.

    Args:
        file: the list.
        suffix: one of ``SUFFIXES``.
        first: one of those that :func:`cut` gives.
        count: of rows; None: all that follow.
        limit: bytes of the largest row that is read.

    Raises:
        Damage: it cannot be read on, after the rows that were given.
        OSError: the same.
    """
    rows = _parquet_rows(file, first.row, limit) if suffix == ".parquet" else _json_rows(file, suffix, first, limit)
    number = first.row
    for row in rows if count is None else islice(rows, count):
        yield number, row
        number += 1
    if count is not None and number < first.row + count:
        raise Damage(f"{first.row + count - number} rows are missing")


def _json_rows(file: Path, suffix: str, first: Place, limit: int) -> Iterator[Row | Fault]:
    with open(file, "rb") as stream:
        for _, data in _raw(stream, suffix, first.offset, limit):
            if data is None:
                yield Fault("oversized text", f"a row of more than {limit} bytes")
                continue
            row = parsed(data)
            if isinstance(row, (dict, Fault)):
                yield row
            else:
                yield Fault("incomplete row", f"a {type(row).__name__}, not a mapping")


def _raw(stream: IO[bytes], suffix: str, offset: int | None, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Offset and bytes of every row (None: too large) from ``offset`` on, or from the first one."""
    start = stream.read(_BLOCK)
    bare = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    skipped = len(start) - len(bare)
    if suffix == ".json" and bare[:1] == b"[":
        return _elements(stream, skipped + 1 if offset is None else offset, limit)
    line, end, _ = bare.partition(b"\n")
    if suffix == ".json" and end and not isinstance(parsed(line), dict):
        raise Damage("it holds neither a list nor a row in its first line")
    return _lines(stream, skipped if offset is None else offset, limit)


def _lines(stream: IO[bytes], place: int, limit: int) -> Iterator[tuple[int, bytes | None]]:
    stream.seek(place)
    while line := stream.readline(limit + 1):
        row = line if line.endswith(b"\n") or len(line) <= limit else None
        offset, place = place, place + len(line)
        while not line.endswith(b"\n") and (line := stream.readline(_BLOCK)):
            place += len(line)
        if row is None or row.strip():
            yield offset, row


def _elements(stream: IO[bytes], place: int, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """As Latin-1, in which every byte is a character, so that places in the text are places in the file: what gives
    JSON its structure is ASCII in both."""
    decoder, text, at = json.JSONDecoder(), "", 0
    stream.seek(place)
    while True:
        found = _NEXT.search(text, at)
        at = found.start() if found else len(text)
        if text[at : at + 1] == "]":
            return
        try:
            end = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError):
            end = len(text)
        if end < len(text):  # a number that ends with the text may go on
            yield place + at, text[at:end].encode("latin-1") if end - at <= limit else None
            at = end
            continue
        if len(text) - at > limit:
            raise Damage(f"at byte {place + at} is no row, or one of more than {limit} bytes")
        block = stream.read(_BLOCK)
        if not block:
            raise Damage("it ends without ]")
        place, text, at = place + at, text[at:] + block.decode("latin-1"), 0


def _parquet(stream: IO[bytes]) -> Any:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(stream)
    except Exception as error:  # on a damaged file pyarrow raises nearly everything
        raise Damage(f"no Parquet file ({type(error).__name__})") from error


def _parquet_rows(file: Path, first: int, limit: int) -> Iterator[Row | Fault]:
    with open(file, "rb") as stream:
        table = _parquet(stream)
        try:
            for batch in _batches(table, first):
                for number in range(batch.num_rows):
                    yield _plain(batch.slice(number, 1), limit)
        except Exception as error:  # as above
            raise Damage(f"a damaged row group ({type(error).__name__})") from error


def _batches(table: Any, first: int) -> Iterator[Any]:
    """The rows from ``first`` on; no row group before it is read."""
    before = 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if before + size <= first:
            before += size
            continue
        for batch in table.iter_batches(_BATCH, row_groups=[group]):
            skipped = min(max(0, first - before), batch.num_rows)
            before += batch.num_rows
            yield batch.slice(skipped)


def _plain(row: Any, limit: int) -> Row | Fault:
    """One row as plain data."""
    try:
        text = json.dumps(row.to_pylist()[0], default=_told)
    except ValueError as error:  # of a text that is not UTF-8, too
        return Fault("unreadable text", type(error).__name__)
    return json.loads(text) if len(text) <= limit else Fault("oversized text", f"a row of more than {limit} bytes")


def _told(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
