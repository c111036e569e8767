"""The formats of annotation files: JSON, JSON lines, CSV, TAB-separated text, COCO."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlkit.datasets.coco_captions import coco_rows, top
from vlkit.datasets.faults import Faults, lacks, short
from vlkit.datasets.separated import header_of, table_rows
from vlkit.errors import DataError
from vlkit.json_reader import BadRow, JsonError, parse_json, parse_rows
from vlkit.text_encoding import TextError
from vlkit.text_files import encoding_fault, open_text, plain_suffix, read_bytes, start_of

__all__ = ["FORMATS", "NEED", "Faults", "entries", "good_rows", "lacks", "short"]

FORMATS = ("auto", "json", "jsonl", "csv", "txt", "coco")
_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".txt": "txt"}
_LINE_END = re.compile(r"[\r\n]")
_LINE = re.compile(r"line 1, ")  # of a text of one line
NEED = "A row needs 'image' (a file name) and 'caption' (a text or a list of texts)."


def entries(file: Path, format: str, faults: Faults, column: str = "image") -> Iterable[tuple[int, Any]]:
    """Numbers and rows of a file; whether a row has what it needs is not checked.

    Args:
        format: one of ``FORMATS``.
        faults: added to: what is no row. Its unit becomes that of the format.
        column: that the header of a CSV file must have.

    Raises:
        DataError: the file cannot be read in this format.
    """
    start = _start(file, faults.need)
    kind, suffix = format, plain_suffix(file)
    if format == "auto":
        kind = _SUFFIXES.get(suffix) or ("json" if start[:1] in "[{" else "txt")
        if kind == "txt" and {"image", "caption"} <= set(header_of(_LINE_END.split(start)[0], column)[1]):
            kind = "csv"
    if kind in ("jsonl", "csv", "txt"):
        faults.unit = "line"
        if kind == "csv":
            return table_rows(file, faults, column, tabs=suffix == ".tsv")
        return {"jsonl": _json_lines, "txt": _tab_lines}[kind](file, faults)
    try:
        data = parse_rows(read_bytes(file), str(file))
    except JsonError as error:
        if format == "auto" and error.more and start[:1] == "{":
            faults.unit = "line"
            return _json_lines(file, faults)
        raise DataError(f"{error} Correct the file or set 'format'.") from error
    if kind == "coco" or (format == "auto" and isinstance(data, dict) and "images" in data):
        return coco_rows(file, data)
    if isinstance(data, list):
        return good_rows(data, faults)
    hint = " This looks like a COCO file: set format: coco." if isinstance(data, dict) and "images" in data else ""
    raise DataError(f"{file}: the top level is {top(data)}; a list of rows is needed.{hint} {faults.need}")


def good_rows(rows: list[Any], faults: Faults) -> Iterator[tuple[int, Any]]:
    """Rows of a JSON list with their number, from 1; those that JSON itself makes bad become faults."""
    for number, row in enumerate(rows, 1):
        if isinstance(row, BadRow):
            faults.add(number, f"{row.reason}.")
        else:
            yield number, row


def _start(file: Path, need: str) -> str:
    """The first characters of the file, without white space in front."""
    try:
        return start_of(file)
    except TextError as error:
        raise DataError(f"{error} {need}") from error


def _json_lines(file: Path, faults: Faults) -> Iterator[tuple[int, Any]]:
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            fault = encoding_fault(line)
            if not fault:
                try:
                    row = parse_json(line, "")
                except JsonError as error:
                    fault = _LINE.sub("", error.reason)
            if fault:
                faults.add(number, fault)
            else:
                yield number, row


def _tab_lines(file: Path, faults: Faults) -> Iterator[tuple[int, Any]]:
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            image, tab, caption = line.rstrip("\n").partition("\t")
            fault = encoding_fault(line) if tab else ""
            if fault:
                faults.add(number, fault)
            elif tab:
                yield number, {"image": image, "caption": caption}
            elif line.strip():
                faults.add(number, f"{short(image)} has no TAB between image and caption.")
