"""Find annotation files, and read their rows: JSON, JSON lines, CSV, TAB-separated text, COCO, Karpathy's splits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vlkit.datasets.coco import coco_rows, karpathy_rows, looks_karpathy, top
from vlkit.datasets.columns import Fields, TableColumns
from vlkit.datasets.faults import Faults, entry_fault, short
from vlkit.datasets.separated import header_of, separated_rows
from vlkit.datasets.shard_files import is_tar_name
from vlkit.errors import DataError, VlkitError
from vlkit.io.fetch import fetch, local_path
from vlkit.io.json import BadRow, JsonError, parse_json, parse_rows
from vlkit.io.text import TextError, encoding_fault, open_text, plain_suffix, read_bytes, start_of

T = TypeVar("T")
METADATA = ("metadata.jsonl", "metadata.csv")
"""Annotation files of Hugging Face's imagefolder."""
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
"""Names of the folders of splits in Hugging Face's imagefolder."""
FORMATS = ("auto", "json", "jsonl", "csv", "txt", "coco", "karpathy")
_ENDINGS = ("json", "jsonl", "csv", "tsv", "txt")
_IN_FOLDER = tuple(f"captions.{ending}{packed}" for packed in ("", ".gz") for ending in _ENDINGS)
_FORMAT_OF = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".txt": "txt"}
_LINE_END = re.compile(r"[\r\n]")
_LINE = re.compile(r"line 1, ")  # in messages about a text of one line
_LIST = re.compile(r"\[\s*(\{|$)")  # a list of mappings, which is not a row of JSON lines


def find_file(path: str | os.PathLike[str], split: str | None = None) -> Path:
    """Return the annotation file at ``path``: a file, a URL, ``package://name/path``, or a folder with one file
    ``captions.*`` or ``metadata.*`` (Hugging Face's imagefolder).

    Args:
        path: of a file or folder.
        split: whose folder below ``path`` (:data:`SPLIT_FOLDERS`) may hold the file.

    Raises:
        DataError: there is no such file.
    """
    try:
        folder = local_path(os.fspath(path))
        if not folder.is_dir() and not _reader_of(folder):
            return fetch(os.fspath(path))
    except VlkitError as error:
        raise DataError(f"annotations: {error} Set 'path' to an annotation file.") from error
    places = (_IN_FOLDER, METADATA, [f"data/{name}" for name in METADATA])
    there = ([folder / name for name in names if (folder / name).is_file()] for names in places)
    found = next(filter(None, there), []) or _in_split_folders(folder, split)
    if len(found) == 1:
        return found[0]
    reader = _reader_of(folder)
    if reader:
        raise DataError(f"{folder}: {reader}")
    names = " and ".join(str(file.relative_to(folder)) for file in found)
    what = f"holds {names}" if found else "holds no captions file"
    needed = ", ".join((*_IN_FOLDER[: len(_ENDINGS)], *METADATA))
    raise DataError(
        f"{folder}: the folder {what}. One of {needed} (or .gz) is needed, or the path of a file."
        " A folder of images needs metadata.csv with the columns file_name and text."
    )


def _in_split_folders(folder: Path, split: str | None) -> list[Path]:
    """Return the metadata files in the folders of a split.

    Raises:
        DataError: only other splits have one.
    """
    known = [name for names in SPLIT_FOLDERS.values() for name in names]
    inside = [each for root in (folder, folder / "data") if root.is_dir() for each in sorted(root.iterdir())]
    files = [each / name for each in inside if each.name.lower() in known for name in METADATA]
    files = [file for file in files if file.is_file()]
    found = [file for file in files if split is not None and file.parent.name.lower() in SPLIT_FOLDERS[split]]
    if files and not found:
        there = ", ".join(sorted({file.parent.name for file in files}))
        raise DataError(f"{folder}: no folder of split {split!r} holds a metadata file, only {there}. Set 'split'.")
    return found


def _reader_of(path: Path) -> str:
    """Return which other dataset reads the data at ``path``, a sentence; or ""."""
    folder = path.is_dir()
    if is_tar_name(path.name) or (folder and any(is_tar_name(each.name) for each in path.iterdir())):
        return "webdataset shards are read by {name: web_shards, path: ...}."
    patterns = ("dataset_*.json", "*.parquet", "*/metadata.parquet", "data/*.parquet")
    if path.suffix == ".parquet" or (folder and any(each for pattern in patterns for each in path.glob(pattern))):
        return "what the package datasets has written is read by {name: hf_dataset, path: ...}."
    return ""


def short_names(files: list[Path]) -> list[str]:
    """Return the names of files, or their paths if names repeat."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def parsed_rows(
    rows: Iterable[tuple[int, Fields]], faults: Faults, parse: Callable[[int, Fields], T | str]
) -> Iterator[T]:
    """Yield the results of ``parse``, which returns a row or a sentence that says why the row is not valid.

    Raises:
        DataError: after the last row: the faults of all rows together, or that there are no rows.
    """
    empty = True
    for number, fields in rows:
        empty = False
        row = parse(number, fields)
        if isinstance(row, str):
            faults.add(number, row)
        else:
            yield row
    faults.raise_where_empty(empty)


def table_rows(file: Path, format: str, faults: Faults, columns: TableColumns) -> Iterator[tuple[int, Fields]]:
    """Yield numbers and rows of a file that have the needed columns; values are not checked.

    Args:
        file: annotation file.
        format: one of ``FORMATS``.
        faults: receives entries that are not rows, and rows that lack a column. Its unit becomes that of the format.
        columns: of the file.

    Raises:
        DataError: the file cannot be read in this format, or its columns are ambiguous.
    """
    for number, row in entries(file, format, faults, columns):
        if isinstance(row, Fields):
            fields = entry_fault(row, columns.keys.needed) or row
        else:
            fields = columns.fields(row)
        if isinstance(fields, str):
            faults.add(number, fields)
        else:
            yield number, fields
    columns.finish()


def entries(file: Path, format: str, faults: Faults, columns: TableColumns) -> Iterable[tuple[int, Any]]:
    """Return numbers and rows of a file as written; those of COCO and Karpathy as :class:`Fields`.

    Args:
        file: annotation file.
        format: one of ``FORMATS``.
        faults: receives entries that are not rows. Its unit becomes that of the format.
        columns: that the header of a CSV file must have.

    Raises:
        DataError: the file cannot be read in this format.
    """
    try:
        start = start_of(file)
    except TextError as error:
        raise DataError(f"{error} {faults.need}") from error
    kind = _format_of(file, start, columns) if format == "auto" else format
    if kind in ("jsonl", "csv", "txt"):
        faults.unit = "line"
        if kind == "csv":
            return separated_rows(file, faults, columns, tabs=plain_suffix(file) == ".tsv")
        return _json_lines(file, faults) if kind == "jsonl" else _tab_lines(file, faults, columns)
    try:
        data = parse_rows(read_bytes(file), str(file))
    except JsonError as error:
        if format == "auto" and error.more and start[:1] == "{":
            faults.unit = "line"
            return _json_lines(file, faults)
        raise DataError(f"{error} Correct the file or set 'format'.") from error
    if kind == "karpathy" or (format == "auto" and looks_karpathy(data)):
        columns.own_format("Karpathy's")
        return karpathy_rows(file, data, faults)
    with_images = isinstance(data, dict) and "images" in data
    if kind == "coco" or (format == "auto" and with_images):
        columns.own_format("COCO's")
        return coco_rows(file, data)
    if isinstance(data, list):
        return good_rows(data, faults)
    hint = " This looks like a COCO file: set format: coco." if with_images else ""
    raise DataError(f"{file}: the top level is {top(data)}; a list of rows is needed.{hint} {faults.need}")


def _format_of(file: Path, start: str, columns: TableColumns) -> str:
    """Return the format of a file from its extension and its first characters."""
    kind = _FORMAT_OF.get(plain_suffix(file)) or ("json" if start[:1] in "[{" else "txt")
    if kind == "jsonl" and _LIST.match(start):  # a list in a file called .jsonl
        return "json"
    if kind == "txt" and not columns.positional:
        return "csv" if columns.fits(header_of(_LINE_END.split(start)[0], columns)[1]) else "txt"
    return kind


def good_rows(rows: list[Any], faults: Faults) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a JSON list with their number, from 1; rows that are not valid JSON become faults."""
    for number, row in enumerate(rows, 1):
        if isinstance(row, BadRow):
            faults.add(number, f"{row.reason}.")
        else:
            yield number, row


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


def _tab_lines(file: Path, faults: Faults, columns: TableColumns) -> Iterator[tuple[int, Any]]:
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            image, tab, caption = line.rstrip("\n").partition("\t")
            fault = encoding_fault(line) if tab else ""
            if fault:
                faults.add(number, fault)
            elif columns.positional and line.strip():
                yield number, line.rstrip("\n").split("\t")
            elif tab:
                yield number, {"image": image, "caption": caption}
            elif line.strip():
                faults.add(number, f"{short(image)} has no TAB between image and caption.")
