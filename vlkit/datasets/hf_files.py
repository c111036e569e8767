"""Opens what the package ``datasets`` of Hugging Face reads: files here, or datasets of the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vlkit.datasets.annotations import SPLIT_FOLDERS
from vlkit.datasets.image_files import nearest
from vlkit.errors import DataError, MissingDependency, VlkitError, did_you_mean
from vlkit.io.files import local_path, offline
from vlkit.io.hub_caches import hub_cache, without_hub

_SAVED = ("dataset_info.json", "dataset_dict.json")
_NEED = "no folder of save_to_disk and no Parquet file, nor a folder of images with metadata.csv"


def opened(path: str, part: str | None, subset: str | None) -> Any:
    """A ``Dataset`` or a ``DatasetDict``.

    Args:
        path: of a folder, Parquet files, or a dataset of the hub.
        part: split, as ``datasets`` calls it; None: all.
        subset: configuration of a dataset of the hub.

    Raises:
        DataError: it cannot be read.
        MissingDependency: ``datasets`` is not installed.
    """
    try:
        with without_hub():
            import datasets

            return _loaded(datasets, path, part, subset)
    except ImportError as error:
        raise MissingDependency("datasets", "the dataset hf_dataset", "hf") from error


def _loaded(datasets: Any, path: str, part: str | None, subset: str | None) -> Any:
    try:
        place = local_path(path)
    except VlkitError as error:
        raise DataError(str(error)) from error
    try:
        found = _local(datasets, place, part)
        if part is not None and found is not None and any((place / name).is_file() for name in _SAVED):
            _check_part(found, path, part)
    except VlkitError:
        raise
    except Exception as error:  # of arrow and pandas, too
        raise DataError(f"{path}: cannot be read by the package datasets: {_short(error)}") from error
    if found is not None:
        return found
    if place.is_dir() or place.suffix == ".parquet" or place.is_absolute():
        raise DataError(f"{path}: {_NEED}. {_there(place)}")
    if path in datasets.packaged_modules._PACKAGED_DATASETS_MODULES:  # it would read the working directory
        raise DataError(
            f"{path}: this is the name of a reader of the package datasets, not of a dataset. Give the folder, the "
            f"Parquet files, or the name on the hub."
        )
    try:
        return datasets.load_dataset(path, subset, split=part)
    except Exception as error:  # a hub has many ways to fail
        if part is not None and isinstance(error, ValueError) and "split" in str(error).lower():
            raise DataError(f"{path}: part {part!r} cannot be read: {_short(error)}") from error
        if offline():
            raise DataError(
                f"{path}: no folder or file here, and not in the cache of the Hugging Face hub ({hub_cache()}); "
                "VLKIT_OFFLINE or HF_HUB_OFFLINE is set, so no connection is opened. To do without: where there is "
                f"one, run python -c \"from datasets import load_dataset; load_dataset('{path}').save_to_disk('FOLDER')"
                f'", copy FOLDER here and set path: FOLDER. ({_short(error)})'
            ) from error
        raise DataError(
            f"{path}: neither a folder or file here, nor can it be had from the Hugging Face hub: {_short(error)}"
        ) from error


def _check_part(found: Any, path: str, part: str) -> None:
    if not isinstance(found, dict):
        raise DataError(f"{path}: it is saved as one dataset without splits, so 'part' ({part!r}) cannot be given.")


def _local(datasets: Any, place: Path, part: str | None) -> Any:
    """What is on this machine; None: nothing that ``datasets`` reads."""
    if any((place / name).is_file() for name in _SAVED):
        return datasets.load_from_disk(str(place))
    metadata = [f"{folder}metadata.{end}" for folder in ("", "*/", "data/*/") for end in ("csv", "jsonl", "parquet")]
    if place.is_dir() and any(each for pattern in metadata for each in place.glob(pattern)):
        return datasets.load_dataset("imagefolder", data_dir=str(place), split=part)
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else sorted(place.parent.glob(place.name))
    files = [file for file in files if file.is_file()]
    if files:
        splits = _by_split(files, place if place.is_dir() else place.parent)
        return datasets.load_dataset("parquet", data_files=splits, split=part or (None if len(splits) > 1 else "train"))
    return None


def _by_split(files: list[Path], folder: Path) -> dict[str, list[str]]:
    """Files by the split in their names (``data/train-00000.parquet``), if each has one, else all as "train"."""
    names = [name for known in SPLIT_FOLDERS.values() for name in known]
    found: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", str(file.relative_to(folder)).lower())
        split = next((word for word in words if word in names), None)
        if split is None:
            return {"train": [str(each) for each in files]}
        found.setdefault(split, []).append(str(file))
    return found if len(found) > 1 else {"train": [str(each) for each in files]}


def _there(place: Path) -> str:
    """What is at a place, or near it; a sentence."""
    if not place.is_dir():
        return nearest(str(place))
    names = sorted(each.name for each in place.iterdir())
    return f"The folder holds {', '.join(names[:5])}{', ...' * (len(names) > 5)}." if names else "The folder is empty."


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def choose(found: Any, path: str, split: str, part: str | None) -> Any:
    """One split of what was opened.

    Raises:
        DataError: it has no such split.
    """
    if not isinstance(found, dict):
        return found
    names = [part] if part else [split, *SPLIT_FOLDERS[split]]
    names += list(found) if len(found) == 1 and not part else []
    for name in names:
        if name in found:
            return found[name]
    raise DataError(
        f"{path}: no split {names[0]!r}.{did_you_mean(names[0], found)} Set part: one of {', '.join(found)}."
    )
