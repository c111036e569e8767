"""Captions in the formats of COCO (``captions_*.json``) and of Karpathy's splits (``dataset_coco.json``)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vlkit.datasets.columns import Fields
from vlkit.datasets.faults import Faults, entry_fault, image_id_fault, short
from vlkit.errors import DataError, did_you_mean
from vlkit.io.json import BadRow

_COCO = "A COCO captions file holds 'images' ({id, file_name}) and 'annotations' ({image_id, caption})."
_KARPATHY = "A file of Karpathy's splits holds 'images' ({filename, split, sentences: [{raw}]})."
_KARPATHY_KEYS = (("filename", str, "a text"), ("split", str, "a text"), ("sentences", list, "a list"))
PARTS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
"""Karpathy's splits in each split of a dataset."""


def top(data: Any) -> str:
    """Describe the top level of a file."""
    return f"a mapping with the keys {', '.join(map(repr, list(data)[:20]))}" if isinstance(data, dict) else short(data)


def coco_rows(file: Path, data: Any) -> Iterator[tuple[int, Fields]]:
    """Yield one row per image of a file in COCO's format.

    Raises:
        DataError: the data are of another format, or the faults of all entries.
    """
    from pycocotools.coco import COCO

    images = data.get("images") if isinstance(data, dict) else None
    annotations = data.get("annotations", []) if isinstance(data, dict) else None
    if not isinstance(images, list) or not isinstance(annotations, list):
        near = did_you_mean("images", data) if isinstance(data, dict) and "images" not in data else ""
        raise DataError(f"{file}: the top level is {top(data)}.{near} {_COCO}")
    numbered = _images(file, images)
    ids = {image["id"] for _, image in numbered}
    index = COCO()
    index.dataset = {
        "images": [image for _, image in numbered],
        "annotations": _annotations(file, annotations, ids, len(numbered) < len(images)),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        index.createIndex()
    for number, image in numbered:
        captions = [annotation["caption"] for annotation in index.imgToAnns.get(image["id"], [])]
        domain = {"domain": image["domain"]} if "domain" in image else {}  # nocaps
        row = {"image": image["file_name"], "caption": captions, "image_id": image["id"], **domain}
        yield number, Fields(row)


def _images(file: Path, images: list[Any]) -> list[tuple[int, dict[str, Any]]]:
    """Return numbers and valid entries."""
    faults, ids, good = Faults(file, "images entry", _COCO), set[Any](), []
    for number, image in enumerate(images, 1):
        fault = _fault(image, ("id", "file_name"))
        if not fault and image["id"] in ids:
            fault = f"the id {image['id']!r} is that of an earlier image."
        if fault:
            faults.add(number, fault)
        else:
            ids.add(image["id"])
            good.append((number, image))
    faults.raise_all()
    return good


def _annotations(file: Path, annotations: list[Any], ids: set[Any], incomplete: bool) -> list[dict[str, Any]]:
    """Return the valid entries; with ``incomplete`` some images had faults and are missing in ``ids``."""
    faults, good = Faults(file, "annotations entry", _COCO), []
    for number, annotation in enumerate(annotations, 1):
        fault = _fault(annotation, ("image_id", "caption"))
        if not fault and annotation["image_id"] not in ids:
            fault = f"no {'usable ' * incomplete}image has the id {annotation['image_id']!r}."
        if not fault and not isinstance(annotation["caption"], str):
            fault = f"'caption' is {short(annotation['caption'])}, not a text."
        if fault:
            faults.add(number, fault)
        else:
            annotation["id"] = number  # the index needs one; some files have none
            good.append(annotation)
    faults.raise_all()
    return good


def _fault(entry: Any, keys: tuple[str, str]) -> str:
    if isinstance(entry, BadRow):
        return f"{entry.reason}."
    return entry_fault(entry, keys) or image_id_fault(entry[keys[0]], keys[0])


def looks_karpathy(data: Any) -> bool:
    """Return whether the content of a JSON file is in the format of Karpathy's splits."""
    images = data.get("images") if isinstance(data, dict) else None
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and "sentences" in first and "annotations" not in data


def karpathy_rows(file: Path, data: Any, faults: Faults) -> Iterator[tuple[int, Fields]]:
    """Yield one row per image of all splits, with ``split`` and, if the file has it, COCO's id as ``image_id``.

    Args:
        file: named in errors.
        data: its content.
        faults: receives invalid entries.

    Raises:
        DataError: the data are of another format.
    """
    images = data.get("images") if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise DataError(f"{file}: the top level is {top(data)}. {_KARPATHY}")
    faults.unit, faults.need = "images entry", _KARPATHY
    for number, image in enumerate(images, 1):
        fault = _karpathy_fault(image)
        if fault:
            faults.add(number, fault)
            continue
        captions = [each.get("raw") if isinstance(each, dict) else each for each in image["sentences"]]
        row = {"image": str(PurePosixPath(image.get("filepath", ""), image["filename"])), "caption": captions}
        identity = {"image_id": image["cocoid"]} if "cocoid" in image else {}
        yield number, Fields({**row, "split": image["split"], **identity}, in_splits=True)


def _karpathy_fault(image: Any) -> str:
    fault = f"{image.reason}." if isinstance(image, BadRow) else entry_fault(image, ())
    if fault:
        return fault
    for key, kind, what in _KARPATHY_KEYS:
        fault = entry_fault(image, [key])
        if not fault and not isinstance(image[key], kind):
            fault = f"{key!r} is {short(image[key])}, not {what}."
        if fault:
            return fault
    folder = image.get("filepath", "")
    return "" if isinstance(folder, str) else f"'filepath' is {short(folder)}, not a text."
