"""The formats of annotation files: JSON, JSON lines, CSV, TAB-separated text, COCO."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlkit.errors import DataError, did_you_mean

FORMATS = ("auto", "json", "jsonl", "csv", "txt", "coco")
_SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".txt": "txt"}
_SHOWN = 3
NEED = "A row needs 'image' (a file name) and 'caption' (a text or a list of texts)."


class Faults:
    """Faults of single rows, to be raised as one error.

    Args:
        file: where the rows are.
        unit: what a row is called: "row", "line".
        need: a sentence that says what a row must have.
    """

    def __init__(self, file: Path, unit: str = "row", need: str = NEED):
        self.file, self.unit, self.need = file, unit, need
        self.count = 0
        self.first: list[str] = []

    def add(self, number: int, text: str) -> None:
        """Row ``number`` has the fault ``text``, a sentence."""
        self.count += 1
        if self.count <= _SHOWN:
            self.first.append(f"{self.unit} {number}: {text}")

    def raise_all(self) -> None:
        """Raise what was added, if anything.

        Raises:
            DataError: the first faults, and how many there are.
        """
        if self.count:
            more = f" And {self.count - _SHOWN} more." if self.count > _SHOWN else ""
            raise DataError(f"{self.file}: {' '.join(self.first)}{more} {self.need} Mend or delete these.")


def lacks(key: str, fields: Mapping[str, Any]) -> str:
    """A sentence: ``key`` is not in ``fields``, which has these keys."""
    return f"no key {key!r}, only {', '.join(map(repr, fields)) or 'an empty mapping'}.{did_you_mean(key, fields)}"


def short(value: Any) -> str:
    """``value`` and its type, cut to a few words."""
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def entries(file: Path, format: str, faults: Faults, column: str = "image") -> Iterable[tuple[int, Any]]:
    """Numbers and rows of a file; whether a row has what it needs is not checked.

    Args:
        format: one of ``FORMATS``.
        faults: added to: lines that are no rows. Its unit becomes that of the format.
        column: that the header of a CSV file must have.

    Raises:
        DataError: the file cannot be read in this format.
    """
    start = _start(file, faults.need)
    kind = format
    if format == "auto":
        kind = _SUFFIXES.get(file.suffix.lower()) or ("json" if start[:1] in "[{" else "txt")
        if kind == "txt" and {"image", "caption"} <= set(_header(start)):
            kind = "csv"
    if kind in ("jsonl", "csv", "txt"):
        faults.unit = "line"
        if kind == "csv":
            return _csv_lines(file, faults, column)
        return {"jsonl": _json_lines, "txt": _tab_lines}[kind](file, faults)
    try:
        data = json.loads(_decoded(file.read_bytes(), file))
    except json.JSONDecodeError as error:
        if format == "auto" and error.msg == "Extra data" and start[:1] == "{":
            faults.unit = "line"
            return _json_lines(file, faults)
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(f"{file}: not valid JSON at {where}: {error.msg}. Mend the file or set 'format'.") from error
    if kind == "coco" or (format == "auto" and isinstance(data, dict) and "images" in data):
        return _coco(file, data)
    if isinstance(data, list):
        return enumerate(data, 1)
    hint = " This looks like a COCO file: set format: coco." if isinstance(data, dict) and "images" in data else ""
    raise DataError(f"{file}: the top level is {_top(data)}; a list of rows is needed.{hint} {faults.need}")


def _top(data: Any) -> str:
    return f"a mapping with the keys {', '.join(map(repr, data))}" if isinstance(data, dict) else short(data)


def _start(file: Path, need: str) -> str:
    """The first characters of the file, without white space in front."""
    try:
        with open(file, "rb") as stream:
            start = stream.read(4096)
            whole = file.stat().st_size
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from error
    text = start.decode("utf-8-sig", "replace").lstrip()
    if not text and whole <= len(start):
        raise DataError(f"{file}: the file is empty. {need}")
    return text


def _decoded(data: bytes, file: Path, line: int = 1) -> str:
    """``data`` as text; ``line`` is the number of its first line."""
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        looks = "It looks like UTF-16. " if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise DataError(
            f"{file}: line {line} is not UTF-8 (byte 0x{data[error.start]:02x}). {looks}"
            "Save the file with the encoding UTF-8."
        ) from error


def _lines(file: Path) -> Iterator[str]:
    # Decoded one by one: a text stream reads ahead, so its errors would name the wrong line.
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            yield _decoded(line, file, number)


def _json_lines(file: Path, faults: Faults) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            faults.add(number, f"not valid JSON at column {error.colno}: {error.msg}.")


def _header(line: str) -> list[str]:
    """The column names in the first line of a CSV file; separated by TAB if there is one, else by commas."""
    line = line.partition("\n")[0].replace("\0", "")
    return [name.strip() for name in next(csv.reader([line], delimiter="\t" if "\t" in line else ","), [])]


def _csv_lines(file: Path, faults: Faults, column: str) -> Iterator[tuple[int, Any]]:
    lines = _lines(file)
    first = next(lines, "")
    names = _header(first)
    if column not in names:
        raise DataError(f"{file}: the header, line 1, has {lacks(column, dict.fromkeys(names))} {faults.need}")
    reader = csv.reader(lines, delimiter="\t" if "\t" in first else ",", strict=True)
    number = 2  # of the line on which a row starts
    try:
        for fields in reader:
            if len(fields) == len(names):
                yield number, dict(zip(names, fields))
            elif fields:
                advice = ": put quotes around texts that hold the separator" if len(fields) > len(names) else ""
                faults.add(number, f"{len(fields)} fields where the header has {len(names)}{advice}.")
            number = reader.line_num + 2
    except csv.Error as error:
        raise DataError(
            f"{file}: the row from line {number} on is not valid CSV: {error}. Is a quote left open? "
            'A quote inside of a quoted text is written "".'
        ) from error


def _tab_lines(file: Path, faults: Faults) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(file), 1):
        image, tab, caption = line.rstrip("\r\n").partition("\t")
        if tab:
            yield number, {"image": image, "caption": caption}
        elif line.strip():
            faults.add(number, f"{short(image)} has no TAB between image and caption.")


def _coco(file: Path, data: Any) -> Iterator[tuple[int, Any]]:
    """One row per image, from the format of COCO's captions_*.json."""
    from pycocotools.coco import COCO

    need = "A COCO captions file holds 'images' ({id, file_name}) and 'annotations' ({image_id, caption})."
    images = data.get("images") if isinstance(data, dict) else None
    annotations = data.get("annotations", []) if isinstance(data, dict) else None
    if not isinstance(images, list) or not isinstance(annotations, list):
        near = did_you_mean("images", data) if isinstance(data, dict) and "images" not in data else ""
        raise DataError(f"{file}: the top level is {_top(data)}.{near} {need}")
    faults = Faults(file, "images entry", need)
    ids: set[Any] = set()
    for number, image in enumerate(images, 1):
        fault = _keys_fault(image, ("id", "file_name"))
        if not fault and image["id"] in ids:
            fault = f"the id {image['id']!r} is that of an earlier image."
        if fault:
            faults.add(number, fault)
        else:
            ids.add(image["id"])
    faults.raise_all()
    faults = Faults(file, "annotations entry", need)
    for number, annotation in enumerate(annotations, 1):
        fault = _keys_fault(annotation, ("image_id", "caption"))
        if not fault and annotation["image_id"] not in ids:
            fault = f"no image has the id {annotation['image_id']!r}."
        if fault:
            faults.add(number, fault)
        else:
            annotation["id"] = number  # the index of pycocotools needs one; some files have none
    faults.raise_all()
    index = COCO()
    index.dataset = {"images": images, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    for number, image in enumerate(images, 1):
        captions = [annotation["caption"] for annotation in index.imgToAnns.get(image["id"], [])]
        domain = {"domain": image["domain"]} if "domain" in image else {}  # nocaps
        yield number, {"image": image["file_name"], "caption": captions, "image_id": image["id"], **domain}


def _keys_fault(entry: Any, keys: tuple[str, ...]) -> str:
    if not isinstance(entry, Mapping):
        return f"{short(entry)} is not a mapping."
    missing = next((lacks(key, entry) for key in keys if key not in entry), "")
    if missing or type(entry[keys[0]]) in (int, str):
        return missing
    return f"{keys[0]!r} is {short(entry[keys[0]])}, neither a whole number nor a text."
