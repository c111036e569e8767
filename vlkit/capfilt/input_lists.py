"""Read lists of images with texts row by row: JSON lines, a JSON list, Parquet. Memory holds some rows at a time.

Rows are counted from 0; blank lines are none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from vlkit.capfilt.input_texts import Fault, parsed
from vlkit.io.json import finite_or_none
from vlkit.io.text import encoding_of, kind_of

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_BLOCK = 1 << 16  # bytes read at once
_BATCH, _IMAGE_BATCH = 256, 8  # rows of Parquet decoded at once; with images in them
_NEXT = re.compile(r"[^\s,]|\Z")
Row = dict[str, Any]


class Damage(Exception):
    """The rest of a list cannot be read."""


class RowOffset(NamedTuple):
    """Where a row starts: its number, and for JSON the bytes before it."""

    row: int
    offset: int = 0


def shard_offsets(file: Path, suffix: str, rows: int, limit: int) -> list[RowOffset]:
    """Return the offsets that divide a list into shards of ``rows`` rows; none: it has no rows.

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
            return [RowOffset(first) for first in range(0, _parquet(stream).metadata.num_rows, rows)]
    found: list[RowOffset] = []
    with open(file, "rb") as stream:
        try:
            for number, (offset, _) in enumerate(_raw(stream, suffix, None, limit)):
                if number % rows == 0:
                    found.append(RowOffset(number, offset))
        except Damage:  # reported when the last shard is read
            if not found:
                raise
    return found


def read_list(
    file: Path, suffix: str, first: RowOffset, count: int | None, limit: int
) -> Iterator[tuple[int, Row | Fault]]:
    """Yield numbers and rows of a list, from ``first`` on.

    Args:
        file: the list.
        suffix: one of ``SUFFIXES``.
        first: one of those that :func:`shard_offsets` gives.
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


def _json_rows(file: Path, suffix: str, first: RowOffset, limit: int) -> Iterator[Row | Fault]:
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
    """Yield offset and bytes of every row (None: too large) from ``offset`` on, or from the first one."""
    start = stream.read(_BLOCK)
    _check_text(start)
    bare = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    skipped = len(start) - len(bare)
    if suffix == ".json" and bare[:1] == b"[":
        return _elements(stream, skipped + 1 if offset is None else offset, limit)
    line, end, _ = bare.partition(b"\n")
    if suffix == ".json" and end and not isinstance(parsed(line), dict):
        raise Damage("it holds neither a list nor a row in its first line")
    return _lines(stream, skipped if offset is None else offset, limit)


def _check_text(start: bytes) -> None:
    """Raise Damage if the file is not text in UTF-8 with line feeds."""
    kind, encoding = kind_of(start), encoding_of(start)[0]
    if kind:
        raise Damage(f"it is {kind}")
    if encoding != "utf-8" or 4 * start[:200].count(0) > len(start[:200]):
        name = encoding.upper() if encoding != "utf-8" else "UTF-16 or another encoding with zero bytes"
        raise Damage(f"its encoding is {name}: save it as UTF-8")
    if b"\n" not in start and re.search(rb"[}\]][ \t]*\r+[ \t]*[{\[]", start):
        raise Damage("its lines end with CR alone, as of old Macintosh files: save it with LF")


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
    """Decode as Latin-1, in which every byte is a character, so that positions in text and file agree: what gives
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

    try:  # read page by page: a row group of images may be larger than memory
        return pyarrow.parquet.ParquetFile(stream, buffer_size=_BLOCK, pre_buffer=False)
    except Exception as error:  # on a damaged file pyarrow raises nearly everything
        raise Damage(f"no Parquet file ({type(error).__name__})") from error


def _parquet_rows(file: Path, first: int, limit: int) -> Iterator[Row | Fault]:
    with open(file, "rb") as stream:
        table = _parquet(stream)
        encoded = [field.name for field in table.schema_arrow if _holds_bytes(field.type)]
        try:
            for batch in _batches(table, first, _IMAGE_BATCH if encoded else _BATCH):
                for number in range(batch.num_rows):
                    yield _plain(batch.slice(number, 1), encoded, limit)
        except Exception as error:  # as above
            raise Damage(f"a damaged row group ({type(error).__name__})") from error


def _holds_bytes(type: Any) -> bool:
    """Return whether a column may hold encoded images: bytes, or Hugging Face's struct of ``bytes`` and ``path``."""
    from pyarrow import types

    if types.is_dictionary(type):
        return _holds_bytes(type.value_type)
    if types.is_struct(type):
        return type.get_field_index("bytes") >= 0 and _holds_bytes(type.field("bytes").type)
    return any(of(type) for of in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary))


def _batches(table: Any, first: int, size: int) -> Iterator[Any]:
    """Yield the rows from ``first`` on, without reading earlier row groups."""
    before = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if before + rows <= first:
            before += rows
            continue
        for batch in table.iter_batches(size, row_groups=[group]):
            skipped = min(max(0, first - before), batch.num_rows)
            before += batch.num_rows
            yield batch.slice(skipped)


def _plain(row: Any, encoded: list[str], limit: int) -> Row | Fault:
    """Return a row as plain data; columns of ``encoded`` as they are."""
    try:
        values = row.to_pylist()[0]
        images = {name: values[name] for name in encoded}
        text = json.dumps(finite_or_none({**values, **dict.fromkeys(encoded)}), default=_shown)
    except Exception as error:  # of a text that is not UTF-8, a date that Python does not have, an unknown type, ...
        return Fault("unreadable text", type(error).__name__)
    if len(text) > limit:
        return Fault("oversized text", f"a row of more than {limit} bytes")
    return {**json.loads(text), **images}


def _shown(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
