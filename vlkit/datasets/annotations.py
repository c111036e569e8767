"""Reads annotation files of images with captions: JSON, JSON lines, CSV, TAB-separated text, COCO."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vlkit.datasets.annotation_formats import NEED, Faults, entries, lacks, short
from vlkit.datasets.image_ids import image_id_fault
from vlkit.errors import DataError, VlkitError
from vlkit.io import fetch

_SUFFIXES = ("json", "jsonl", "csv", "tsv", "txt")
_IN_FOLDER = tuple(f"captions.{suffix}{packed}" for packed in ("", ".gz") for suffix in _SUFFIXES)
_ID_KEYS = ("image_id", "img_id")  # img_id: the rows of nocaps


class Row(NamedTuple):
    """One row of an annotation file.

    Args:
        number: of the line (jsonl, csv, txt), else of the entry in the list; from 1.
        image: file name, as written.
        captions: none where the row has no caption.
        image_id: as written, or None.
        domain: which part of the data the image belongs to, as nocaps has them; or None.
    """

    number: int
    image: str
    captions: list[str]
    image_id: str | int | None
    domain: str | None = None


def find_file(path: str | os.PathLike[str]) -> Path:
    """The annotation file at ``path``: a file, a URL, or a folder that holds one file ``captions.*``.

    Raises:
        DataError: there is none.
    """
    folder = Path(path).expanduser()
    other = _read_by(folder)
    if other:
        raise DataError(f"{folder}: {other}")
    if not folder.is_dir():
        try:
            return fetch(os.fspath(path))
        except VlkitError as error:
            raise DataError(f"annotations: {error} Set 'path' to an annotation file.") from error
    found = [folder / name for name in _IN_FOLDER if (folder / name).is_file()]
    if len(found) == 1:
        return found[0]
    what = f"holds {' and '.join(file.name for file in found)}" if found else "holds no captions file"
    names = ", ".join(_IN_FOLDER[: len(_SUFFIXES)])
    raise DataError(f"{folder}: the folder {what}. One of {names} (or .gz) is needed, or the path of a file.")


def _read_by(path: Path) -> str:
    """Which dataset reads what is at ``path``, if it is known and none of annotations; a sentence or ""."""
    folder = path.is_dir() and not any((path / name).is_file() for name in _IN_FOLDER)
    if path.suffix == ".tar" or (folder and any(path.glob("*.tar"))):
        return "webdataset shards are read by {name: web_shards, path: ...}."
    if path.suffix == ".parquet" or (folder and (any(path.glob("dataset_*.json")) or any(path.glob("*.parquet")))):
        return "what the package datasets has written is read by {name: hf_dataset, path: ...}."
    return ""


def short_names(files: list[Path]) -> list[str]:
    """The files by their names, or by their paths where names repeat."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def coco_image_id(name: str) -> int | None:
    """The id that COCO gives the image of this file: the number after the last underscore of its name; None if there
    is none. ``val2014/COCO_val2014_000000391895.jpg`` has the id 391895."""
    number = PurePosixPath(name).stem.rpartition("_")[2]
    return int(number) if number.isascii() and number.isdigit() else None


def read_rows(file: Path, format: str = "auto", need_captions: bool = False, image_ids: str = "rows") -> Iterator[Row]:
    """The rows of ``file``, in its order; of a COCO file one per image.

    Args:
        format: one of ``FORMATS``; "auto" goes by the extension and the content.
        need_captions: a row without the key ``caption`` is a fault.
        image_ids: "rows": as written; "coco": those of :func:`coco_image_id`.

    Raises:
        DataError: the file cannot be read, or has no rows. Faults of single rows are reported together, after
            the last row; inside :func:`~vlkit.datasets.faults.collect_faults` these rows are left out.
    """
    faults = Faults(file, need=NEED)
    empty = True
    for number, fields in entries(file, format, faults):
        empty = False
        fault = _fault(fields, need_captions)
        if not fault and image_ids == "coco" and coco_image_id(fields["image"]) is None:
            fault = f"{short(fields['image'])} has no number after its last underscore, as image_ids: coco needs."
        if fault:
            faults.add(number, fault)
        else:
            image_id = next((fields[key] for key in _ID_KEYS if fields.get(key) not in (None, "")), None)
            if image_ids == "coco":
                image_id = coco_image_id(fields["image"])
            captions = _captions(fields.get("caption"))
            if need_captions and not captions:
                faults.unused(number, "it has no caption to train on.")
            yield Row(number, fields["image"], captions, image_id, fields.get("domain") or None)
    faults.raise_where_empty(empty)


def _fault(fields: Any, need_captions: bool) -> str:
    """Why ``fields`` is not a row, or ""."""
    if not isinstance(fields, Mapping):
        return f"{short(fields)} is not a mapping."
    for key in ("image", "caption") if need_captions else ("image",):
        if key not in fields:
            return lacks(key, fields)
    image, caption = fields["image"], fields.get("caption")
    if not isinstance(image, str) or not image.strip():
        return f"'image' is {short(image)}, not a file name."
    texts = caption if isinstance(caption, list) else [] if caption is None else [caption]
    if not all(isinstance(text, str) for text in texts):
        return f"'caption' is {short(caption)}, neither a text nor a list of texts."
    if not isinstance(fields.get("domain"), (str, type(None))):
        return f"'domain' is {short(fields['domain'])}, not a text."
    for key in _ID_KEYS:
        fault = "" if fields.get(key) in (None, "") else image_id_fault(fields[key], key)
        if fault:
            return fault
    return ""


def _captions(caption: str | list[str] | None) -> list[str]:
    texts = caption if isinstance(caption, list) else [] if caption is None else [caption]
    # Half of a surrogate pair, as cut-off emoji leave it in JSON, is no text: tokenizers fail on it.
    return [text.encode("utf-8", "replace").decode() for text in texts]


def few(kind: str, places: list[str]) -> str:
    """How many there are of a kind, and where the first ones stand: "2 images (a.json:1, a.json:7)"."""
    return f"{len(places)} {kind}{'s' * (len(places) > 1)} ({', '.join(places[:3])}{', ...' * (len(places) > 3)})"
