"""Reads annotation files of images with captions: JSON, JSON lines, CSV, TAB-separated text, COCO."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vlkit.datasets.annotation_formats import NEED, Faults, table_rows
from vlkit.datasets.column_names import CAPTION, IMAGE, IMAGE_ID, Fields, Key
from vlkit.datasets.columns import ColumnKeys
from vlkit.datasets.faults import short
from vlkit.datasets.foreign_files import is_tar_name
from vlkit.datasets.image_ids import image_id_fault, printable
from vlkit.datasets.karpathy import PARTS
from vlkit.errors import DataError, VlkitError, did_you_mean
from vlkit.io.files import fetch, local_path

_SUFFIXES = ("json", "jsonl", "csv", "tsv", "txt")
_IN_FOLDER = tuple(f"captions.{suffix}{packed}" for packed in ("", ".gz") for suffix in _SUFFIXES)
_METADATA = ("metadata.jsonl", "metadata.csv")  # of Hugging Face's imagefolder
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
"""Names of the folders of splits in Hugging Face's imagefolder."""


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


def find_file(path: str | os.PathLike[str], split: str | None = None) -> Path:
    """The annotation file at ``path``: a file, a URL, ``package://name/path``, or a folder that holds one file
    ``captions.*`` or ``metadata.*`` (Hugging Face's imagefolder).

    Args:
        path: of a file or folder.
        split: whose folder below ``path`` (:data:`SPLIT_FOLDERS`) may hold the file.

    Raises:
        DataError: there is none.
    """
    try:
        folder = local_path(os.fspath(path))
        if not folder.is_dir() and not (reader := _read_by(folder)):
            return fetch(os.fspath(path))
    except VlkitError as error:
        raise DataError(f"annotations: {error} Set 'path' to an annotation file.") from error
    data = [f"data/{name}" for name in _METADATA]
    places = (_IN_FOLDER, _METADATA, data)
    there = ([folder / name for name in names if (folder / name).is_file()] for names in places)
    found = next(filter(None, there), []) or _below(folder, split)
    if len(found) == 1:
        return found[0]
    reader = _read_by(folder)
    if reader:
        raise DataError(f"{folder}: {reader}")
    names = " and ".join(str(file.relative_to(folder)) for file in found)
    what = f"holds {names}" if found else "holds no captions file"
    needed = ", ".join((*_IN_FOLDER[: len(_SUFFIXES)], *_METADATA))
    raise DataError(
        f"{folder}: the folder {what}. One of {needed} (or .gz) is needed, or the path of a file."
        " A folder of images needs metadata.csv with the columns file_name and text."
    )


def _below(folder: Path, split: str | None) -> list[Path]:
    """The metadata files in the folders of a split.

    Raises:
        DataError: only other splits have one.
    """
    known = [name for names in SPLIT_FOLDERS.values() for name in names]
    inside = [each for root in (folder, folder / "data") if root.is_dir() for each in sorted(root.iterdir())]
    files = [
        each / name for each in inside if each.name.lower() in known for name in _METADATA if (each / name).is_file()
    ]
    found = [file for file in files if split is not None and file.parent.name.lower() in SPLIT_FOLDERS[split]]
    if files and not found:
        there = ", ".join(sorted({file.parent.name for file in files}))
        raise DataError(f"{folder}: no folder of split {split!r} holds a metadata file, only {there}. Set 'split'.")
    return found


def _read_by(path: Path) -> str:
    """Which dataset reads what is at ``path``, if it is known and none of annotations; a sentence or ""."""
    folder = path.is_dir()
    if is_tar_name(path.name) or (folder and any(is_tar_name(each.name) for each in path.iterdir())):
        return "webdataset shards are read by {name: web_shards, path: ...}."
    patterns = ("dataset_*.json", "*.parquet", "*/metadata.parquet", "data/*.parquet")
    if path.suffix == ".parquet" or (folder and any(each for pattern in patterns for each in path.glob(pattern))):
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


def caption_columns(
    needed: bool,
    keys: Mapping[str, Key | None] | None = None,
    pattern: str | None = None,
) -> ColumnKeys:
    """The columns of a table of images with captions.

    Args:
        needed: whether each row needs a caption.
        keys: "image", "caption" and "image_id" to what the user set.
        pattern: makes file names of the values of the column of the image.
    """
    return ColumnKeys([IMAGE, CAPTION, IMAGE_ID], ["image", "caption"] if needed else ["image"], keys or {}, pattern)


def read_rows(
    file: Path,
    format: str = "auto",
    need_captions: bool = False,
    image_ids: str = "rows",
    columns: ColumnKeys | None = None,
    split: str | None = None,
    parts: Sequence[str] = (),
) -> Iterator[Row]:
    """The rows of ``file``, in its order; of a COCO file one per image.

    Args:
        file: annotation file.
        format: one of ``FORMATS``; "auto" goes by the extension and the content.
        need_captions: a row without a caption is a fault.
        image_ids: "rows": as written; "coco": those of :func:`coco_image_id`.
        columns: which columns to read; None: those of :func:`caption_columns`.
        split: "train", "val", "test": which rows are read of a file that holds several splits: Karpathy's (of which
            "train" reads ``restval`` too), and the metadata file of an imagefolder with a folder for each split.
        parts: values of the column ``split`` of the rows to read; none: as ``split`` says.

    Raises:
        DataError: the file cannot be read, or has no rows. Faults of single rows are reported together, after
            the last row; inside :func:`~vlkit.datasets.faults.collect_faults` these rows are left out.
    """
    faults = Faults(file, need=NEED)
    chosen = _Parts(parts, split, file)
    coco = image_ids == "coco"
    for number, fields in table_rows(file, format, faults, (columns or caption_columns(need_captions)).of(file)):
        fault = _fault(fields) or chosen.fault(fields) or (coco and _coco_id_fault(fields["image"]))
        if fault:
            faults.add(number, fault)
        elif chosen.takes(fields):
            image_id = coco_image_id(fields["image"]) if coco else fields.get("image_id")
            captions = plain_captions(listed_captions(fields.get("caption")))
            if need_captions and not captions:
                faults.unused(number, "it has no caption to train on.")
            image_id = None if image_id == "" else image_id
            yield Row(number, fields["image"], captions, image_id, _domain(fields.get("domain")))
    chosen.finish()
    faults.raise_where_empty(not chosen.met)


class _Parts:
    """Which rows of a file are read."""

    def __init__(self, parts: Sequence[str], split: str | None, file: Path):
        self._parts, self._split, self._metadata = parts, split, file.name in _METADATA
        self._file, self._met = file, dict[str, None]()
        self._taken = False
        self._whole = not parts and not self._metadata

    def fault(self, fields: Fields) -> str:
        """Why it cannot be said whether a row is read, or ""."""
        if not self._parts or isinstance(fields.get("split"), str):
            return ""
        return f"'split' is {short(fields.get('split'))}, and part: {', '.join(self._parts)} is set."

    def takes(self, fields: Fields) -> bool:
        """Whether the row is read."""
        if self._whole and not fields.in_splits:
            self._taken = True
            return True
        own, parts = fields.get("split"), self._parts
        if not parts and self._split is not None and fields.in_splits:
            parts = PARTS[self._split]
        elif not parts and self._split is not None and self._metadata:
            folder = "".join(PurePosixPath(fields["image"].replace("\\", "/")).parts[:1]).lower()
            if any(folder in names for names in SPLIT_FOLDERS.values()):
                own, parts = folder, SPLIT_FOLDERS[self._split]
        self._met[str(own)] = None
        taken = not parts or own in parts
        self._taken |= taken
        return taken

    @property
    def met(self) -> bool:
        """Whether there were rows."""
        return self._taken or bool(self._met)

    def finish(self) -> None:
        """Call after the last row.

        Raises:
            DataError: none of the rows is read.
        """
        if self._met and not self._taken:
            wanted = self._parts or [str(self._split)]
            only = f"{', '.join(self._met)}.{did_you_mean(wanted[0], self._met)}"
            raise DataError(f"{self._file}: holds no rows of {' or '.join(map(repr, wanted))}, only of {only}")


def _fault(fields: Fields) -> str:
    """What is wrong with the values of a row, or ""."""
    image, caption = fields["image"], fields.get("caption")
    if not isinstance(image, str) or not image.strip():
        return f"{fields.shown('image')} is {short(image)}, not a file name.{_patterned(image)}"
    if image.startswith(("http://", "https://")):
        return f"{fields.shown('image')} is an address: download the images first, with img2dataset for example."
    if not isinstance(caption, str) and not all(isinstance(text, str) for text in listed_captions(caption)):
        return f"{fields.shown('caption')} is {short(caption)}, neither a text nor a list of texts."
    if not isinstance(fields.get("domain"), (str, type(None))):
        return f"'domain' is {short(fields['domain'])}, not a text."
    identity = fields.get("image_id")
    if identity is None or identity == "" or not image_id_fault(identity):
        return ""
    return image_id_fault(identity, fields.label("image_id"))


def _coco_id_fault(image: str) -> str:
    """Why the name of an image gives no id of COCO, or ""."""
    identity = coco_image_id(image)
    if identity is None:
        return f"{short(image)} has no number after its last underscore, as image_ids: coco needs."
    return image_id_fault(identity, "image_id")


def _patterned(image: Any) -> str:
    return " image_pattern makes names of numbers: images/{}.jpg." if type(image) is int else ""


def listed_captions(value: Any) -> list[Any]:
    """What the column of a caption holds, as a list: a text, several, or mappings with a text under ``raw``, as
    Karpathy's files have them. What is no text is left as it is."""
    if isinstance(value, str):
        return [value]
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [each["raw"] if isinstance(each, dict) and "raw" in each else each for each in values]


def plain_captions(values: Iterable[str]) -> list[str]:
    """Texts without halves of surrogate pairs, as cut-off emoji leave them in JSON: tokenizers fail on these."""
    return [text if text.isascii() else text.encode("utf-8", "replace").decode() for text in values]


def _domain(given: str | None) -> str | None:
    return printable(given) if given else None


def few(kind: str, places: list[str]) -> str:
    """How many there are of a kind, and where the first ones stand: "2 images (a.json:1, a.json:7)"."""
    return f"{len(places)} {kind}{'s' * (len(places) > 1)} ({', '.join(places[:3])}{', ...' * (len(places) > 3)})"
