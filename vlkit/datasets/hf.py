"""The dataset ``hf_dataset``: images with captions from the package ``datasets`` of Hugging Face."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlkit.datasets.annotation_files import SPLIT_FOLDERS
from vlkit.datasets.base import SPLITS, Sample, VLDataset, check_arguments
from vlkit.datasets.caption_index import caption_columns, listed_captions
from vlkit.datasets.faults import image_id_fault, listed
from vlkit.datasets.media import Media, evenly, local_folder, nearest, pixel_limit, sample_name
from vlkit.datasets.texts import Text, draw_caption, texts_of
from vlkit.errors import BadSample, DataError, MissingDependency, VlkitError, did_you_mean
from vlkit.io.cache import hub_cache, offline, without_hub
from vlkit.io.fetch import local_path
from vlkit.processors.open_image import open_image
from vlkit.registry import DATASETS
from vlkit.registry.bounds import FilledText, PositiveInt

_SAVED = ("dataset_info.json", "dataset_dict.json")
_NEED = "no folder of save_to_disk and no Parquet file, nor a folder of images with metadata.csv"


def opened(path: str, part: str | None, subset: str | None) -> Any:
    """Open a ``Dataset`` or a ``DatasetDict``.

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
    except Exception as error:  # also of arrow and pandas
        raise DataError(f"{path}: cannot be read by the package datasets: {_short(error)}") from error
    if found is not None:
        if part is not None and not isinstance(found, dict) and _is_saved(place):
            raise DataError(f"{path}: it is saved as one dataset without splits, so 'part' ({part!r}) cannot be given.")
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


def _is_saved(place: Path) -> bool:
    """Return whether a folder was written by ``save_to_disk``."""
    return any((place / name).is_file() for name in _SAVED)


def _local(datasets: Any, place: Path, part: str | None) -> Any:
    """Open local data; None: ``datasets`` reads nothing here."""
    if _is_saved(place):
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
    """Group files by the split in their names (``data/train-00000.parquet``) if each has one, else all as "train"."""
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
    """Return what a folder holds, or existing paths like that of a missing one; a sentence."""
    if not place.is_dir():
        return nearest(str(place))
    names = sorted(each.name for each in place.iterdir())
    return f"The folder holds {listed(names)}." if names else "The folder is empty."


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def choose(found: Any, path: str, split: str, part: str | None) -> Any:
    """Return one split of an opened dataset.

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


@DATASETS.register("hf_dataset")
class HuggingFaceDataset(VLDataset):
    """Images with captions that the package ``datasets`` reads: a folder written by ``save_to_disk``, Parquet files, a
    folder of images with ``metadata.csv`` (``jsonl``), or a dataset of the Hugging Face hub. Needs the extra ``hf``.

    Every row is a sample. In split "train" its text is one of its captions, sampled if there are several; in the other
    splits all are under ``references``. ``image_id`` is the row's, if it has one, else
    ``<path>:<row>``; ``sample_id`` is ``<name of path>:<row>``, rows from 0. With ``VLKIT_OFFLINE=1`` no connection is
    opened; datasets of the hub are read from its cache.

    Args:
        path: folder, Parquet file, folder or pattern of these (``part-*.parquet``), ``package://name/path``, or the
            name of a dataset of the hub (``owner/name``).
        split: "train", "val" or "test": how samples are made and, without ``part``, which rows are read.
        part: split of the dataset in ``datasets`` ("validation", "train[:1%]"); None: the one named like ``split``, or
            the only one. The names of Parquet files contain their split (``train-00000.parquet``).
        subset: configuration of a dataset of the hub.
        image_key: column of the images or of their file names; None: ``image`` or a common other name.
        caption_key: column of texts or lists of texts; None: ``caption`` or a common other name.
        image_id_key: column of the ids of images; None: ``image_id`` or a common other name, if there is one.
        image_column, caption_column: older names of ``image_key`` and ``caption_key``.
        image_pattern: makes the file name of an image from the value of its column: ``images/{}.jpg``.
        image_root: folder that file names of images are relative to; None: the working directory.
        image_processor: called with (encoded image as bytes, or a path, and a generator).
        text_processor: called with ``text_input`` (not with references).
        limit: number of rows to use, the first ones; None: all.

    Raises:
        ConfigError: an argument is wrong, or there is no image processor.
        DataError: the dataset cannot be read, or has no such columns.
        MissingDependency: ``datasets`` is not installed.
    """

    plain_images = True

    def __init__(
        self,
        path: FilledText,
        split: Literal["train", "val", "test"] = "train",
        part: str | None = None,
        subset: str | None = None,
        image_key: str | None = None,
        caption_key: str | None = None,
        image_id_key: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        image_pattern: str | None = None,
        image_root: str | None = None,
        image_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        keys = {"image": image_key or image_column, "caption": caption_key or caption_column, "image_id": image_id_key}
        columns = caption_columns(split == "train", keys, image_pattern)
        others = columns.problems() + [
            f"{name}_key: {key!r} and {name}_column: {old!r} given; {name}_column is its older name. Leave it out."
            for name, key, old in (("image", image_key, image_column), ("caption", caption_key, caption_column))
            if key is not None and old is not None
        ]
        check_arguments("hf_dataset", {"split": (split, SPLITS)}, limit, image_processor, others=others)
        self.path, self.split = path, split
        self.root = "" if image_root is None else local_folder(image_root, "image_root")
        self.image_processor, self.text_processor = image_processor, text_processor
        rows = choose(opened(path, part, subset), path, split, part)
        self._columns = columns.of(path)
        found = self._columns.table(rows.column_names)
        self.image_id_column = found.get("image_id")
        self.rows = rows if image_pattern is not None else _encoded(rows, str(found["image"]), path)
        if not len(self.rows):
            raise DataError(f"{path}: holds no rows.")
        self._size = len(self.rows) if limit is None else min(limit, len(self.rows))

    def __len__(self) -> int:
        return self._size

    @property
    def training(self) -> bool:
        """Whether captions are sampled."""
        return self.split == "train"

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        row, name = self._columns.fields(self.rows[index]), self._name(index)
        if isinstance(row, str):
            raise BadSample(name, row.rstrip("."))
        captions, image_id = _captions(row.get("caption")), row.get("image_id")
        fault = "" if image_id is None else image_id_fault(image_id, row.label("image_id"))
        if fault:
            raise BadSample(name, fault.rstrip("."))
        sample = draw_caption(captions, name, self.training, self.text_processor, rng)
        sample["image_id"] = f"{self.path}:{index}" if image_id is None else image_id
        sample["image"] = self._decoded(row["image"], name, lambda source: self.image_processor(source, rng))
        return sample

    def problems(self, limit: int = 20_000) -> list[str]:
        """Return sentences about rows without a caption, and ids and images that cannot be used."""
        chosen = evenly(len(self), limit)
        found = self._id_problems(chosen)
        if self.training:
            without = [index for index, captions in self._all_captions(chosen) if not captions]
            if without:
                found.append(f"{len(without)} of the {len(chosen)} rows checked have no caption ({listed(without)}).")
        return found + self.media_problems()

    def media(self) -> Media:
        limit = pixel_limit(self.image_processor)

        def decode(index: int) -> bool:
            row = self._columns.fields(self.rows[index])
            if not isinstance(row, str):  # problems() reports others
                self._decoded(row["image"], self._name(index), lambda source: open_image(source, limit))
            return True

        return Media("image", len(self), decode)

    def texts(self, limit: int = 20_000) -> list[Text]:
        rows = self._all_captions(evenly(len(self), limit))
        return texts_of(
            ((self._name(index), caption) for index, captions in rows for caption in captions), self.text_processor
        )

    def images(self) -> Iterator[tuple[str | int, str]]:
        ids = self.rows[self.image_id_column] if self.image_id_column is not None else None
        for index in range(len(self)):
            name = f"{self.path}:{index}"
            image_id = None if ids is None else ids[index]
            yield (name if image_id is None or image_id_fault(image_id) else image_id), name

    def fingerprint(self) -> str:
        """Return split, number of rows, and their fingerprint in ``datasets``."""
        return f"{type(self).__name__}:{self.split}:{len(self)}:{self.rows._fingerprint}"

    def _name(self, index: int) -> str:
        return f"{Path(self.path).name}:{index}"

    def _all_captions(self, indices: list[int]) -> Iterator[tuple[int, list[str]]]:
        column = self._columns.table(self.rows.column_names).get("caption")
        if column is not None:
            rows = self.rows.select_columns([column])
            yield from ((index, _captions(rows[index][column])) for index in indices)

    def _id_problems(self, indices: list[int]) -> list[str]:
        if self.image_id_column is None:
            return []
        column = str(self.image_id_column)
        ids = self.rows.select_columns([column])
        given = ((index, ids[index][column]) for index in indices)
        faults = [(index, image_id_fault(value, column)) for index, value in given if value is not None]
        bad = [(index, fault) for index, fault in faults if fault]
        rows = listed([index for index, _ in bad])
        return [f"{len(bad)} rows have an {column} that cannot be used ({rows}): {bad[0][1]}"] if bad else []

    def _decoded(self, value: Any, name: str, decode: Callable[[Any], Any]) -> Any:
        if isinstance(value, str):
            value = {"path": value}
        if value is None or (value.get("bytes") is None and value.get("path") is None):
            raise BadSample(name, "it has no image")
        with sample_name(name):
            return decode(value["bytes"] if value.get("bytes") is not None else os.path.join(self.root, value["path"]))


def _encoded(rows: Any, column: str, path: str) -> Any:
    """Return the rows with images as stored: the image processor decodes them."""
    import datasets

    try:
        return rows.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # of arrow, which differ between versions
        raise DataError(f"{path}: the column {column!r} holds {rows.features[column]}, no images.") from error


def _captions(value: Any) -> list[str]:
    return [text.strip() for text in listed_captions(value) if isinstance(text, str) and text.strip()]
