"""Captions in the format of Karpathy's splits: ``dataset_coco.json`` and its like for Flickr."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vlkit.datasets.columns import Fields
from vlkit.datasets.faults import Faults, image_id_fault, lacks, short
from vlkit.errors import DataError, did_you_mean
from vlkit.io.json_reader import BadRow

_COCO = "A COCO captions file holds 'images' ({id, file_name}) and 'annotations' ({image_id, caption})."


def top(data: Any) -> str:
    """What the top level of a file is, in words."""
    return f"a mapping with the keys {', '.join(map(repr, list(data)[:20]))}" if isinstance(data, dict) else short(data)


def coco_rows(file: Path, data: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """One row per image, from the format of COCO's captions_*.json.

    Raises:
        DataError: the data are of another format; or entries have faults, which are raised together.
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
        "annotations": _annotations(file, annotations, ids, left_out=len(numbered) < len(images)),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    for number, image in numbered:
        captions = [annotation["caption"] for annotation in index.imgToAnns.get(image["id"], [])]
        domain = {"domain": image["domain"]} if "domain" in image else {}  # nocaps
        yield number, {"image": image["file_name"], "caption": captions, "image_id": image["id"], **domain}


def _images(file: Path, images: list[Any]) -> list[tuple[int, dict[str, Any]]]:
    """Numbers and entries without a fault."""
    faults, ids, good = Faults(file, "images entry", _COCO), set[Any](), []
    for number, image in enumerate(images, 1):
        fault = _keys_fault(image, ("id", "file_name"))
        if not fault and image["id"] in ids:
            fault = f"the id {image['id']!r} is that of an earlier image."
        if fault:
            faults.add(number, fault)
        else:
            ids.add(image["id"])
            good.append((number, image))
    faults.raise_all()
    return good


def _annotations(file: Path, annotations: list[Any], ids: set[Any], left_out: bool) -> list[dict[str, Any]]:
    """Entries without a fault; with ``left_out`` images are missing because of faults of their own."""
    faults, good = Faults(file, "annotations entry", _COCO), []
    for number, annotation in enumerate(annotations, 1):
        fault = _keys_fault(annotation, ("image_id", "caption"))
        if not fault and annotation["image_id"] not in ids:
            fault = f"no {'usable ' * left_out}image has the id {annotation['image_id']!r}."
        if not fault and not isinstance(annotation["caption"], str):
            fault = f"'caption' is {short(annotation['caption'])}, not a text."
        if fault:
            faults.add(number, fault)
        else:
            annotation["id"] = number  # the index of pycocotools needs one; some files have none
            good.append(annotation)
    faults.raise_all()
    return good


def _keys_fault(entry: Any, keys: tuple[str, str]) -> str:
    if isinstance(entry, BadRow):
        return f"{entry.reason}."
    if not isinstance(entry, Mapping):
        return f"{short(entry)} is not a mapping."
    missing = next((lacks(key, entry) for key in keys if key not in entry), "")
    return missing or image_id_fault(entry[keys[0]], keys[0])


PARTS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
"""Which rows belong to a split of ours, by their ``split``."""
_KARPATHY = "A file of Karpathy's splits holds 'images' ({filename, split, sentences: [{raw}]})."
_KARPATHY_KEYS = (("filename", str, "a text"), ("split", str, "a text"), ("sentences", list, "a list"))


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
        raise DataError(f"{file}: the top level is {top(data)}. {_KARPATHY}")
    faults.unit, faults.need = "images entry", _KARPATHY
    for number, image in enumerate(images, 1):
        fault = _karpathy_fault(image)
        if fault:
            faults.add(number, fault)
            continue
        captions = [each.get("raw") if isinstance(each, Mapping) else each for each in image["sentences"]]
        row = {"image": str(PurePosixPath(image.get("filepath", ""), image["filename"])), "caption": captions}
        identity = {"image_id": image["cocoid"]} if "cocoid" in image else {}
        yield number, Fields({**row, "split": image["split"], **identity}, in_splits=True)


def _karpathy_fault(image: Any) -> str:
    if isinstance(image, BadRow):
        return f"{image.reason}."
    if not isinstance(image, Mapping):
        return f"{short(image)} is not a mapping."
    for key, kind, what in _KARPATHY_KEYS:
        if key not in image:
            return lacks(key, image)
        if not isinstance(image[key], kind):
            return f"{key!r} is {short(image[key])}, not {what}."
    folder = image.get("filepath", "")
    return "" if isinstance(folder, str) else f"'filepath' is {short(folder)}, not a text."
