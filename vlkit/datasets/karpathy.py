"""Captions in the format of Karpathy's splits: ``dataset_coco.json`` and its like for Flickr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vlkit.datasets.coco_captions import top
from vlkit.datasets.column_names import Fields
from vlkit.datasets.faults import Faults, lacks, short
from vlkit.errors import DataError
from vlkit.io.json_reader import BadRow

PARTS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
"""Which rows belong to a split of ours, by their ``split``."""
_NEED = "A file of Karpathy's splits holds 'images' ({filename, split, sentences: [{raw}]})."
_KEYS = (("filename", str, "a text"), ("split", str, "a text"), ("sentences", list, "a list"))


def looks_karpathy(data: Any) -> bool:
    """Whether the content of a JSON file is in this format."""
    images = data.get("images") if isinstance(data, dict) else None
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and "sentences" in first and "annotations" not in data


def karpathy_rows(file: Path, data: Any, faults: Faults) -> Iterator[tuple[int, Fields]]:
    """One row per image, of all splits, with ``split``; ``image_id`` is COCO's, if it is there.

    Args:
        file: named in errors.
        data: its content.
        faults: added to.

    Raises:
        DataError: the data are of another format.
    """
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise DataError(f"{file}: the top level is {top(data)}. {_NEED}")
    faults.unit, faults.need = "images entry", _NEED
    for number, image in enumerate(images, 1):
        fault = _fault(image)
        if fault:
            faults.add(number, fault)
            continue
        captions = [each.get("raw") if isinstance(each, Mapping) else each for each in image["sentences"]]
        row = {"image": str(PurePosixPath(image.get("filepath", ""), image["filename"])), "caption": captions}
        identity = {"image_id": image["cocoid"]} if "cocoid" in image else {}
        yield number, Fields({**row, "split": image["split"], **identity}, in_splits=True)


def _fault(image: Any) -> str:
    if isinstance(image, BadRow):
        return f"{image.reason}."
    if not isinstance(image, Mapping):
        return f"{short(image)} is not a mapping."
    for key, kind, what in _KEYS:
        if key not in image:
            return lacks(key, image)
        if not isinstance(image[key], kind):
            return f"{key!r} is {short(image[key])}, not {what}."
    folder = image.get("filepath", "")
    return "" if isinstance(folder, str) else f"'filepath' is {short(folder)}, not a text."
