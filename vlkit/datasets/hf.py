"""The dataset ``hf_dataset``: images with captions from the package ``datasets`` of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlkit.bounds import PositiveInt
from vlkit.datasets.arguments import SPLITS, check_arguments
from vlkit.datasets.base import Sample, VLDataset
from vlkit.datasets.caption_table import draw_caption
from vlkit.datasets.image_files import evenly, nearest
from vlkit.datasets.image_ids import image_id_fault
from vlkit.datasets.texts import Text, texts_of
from vlkit.errors import BadSample, DataError, MissingDependency, did_you_mean
from vlkit.io import offline
from vlkit.registry import DATASETS

_SAVED = ("dataset_info.json", "dataset_dict.json")


@DATASETS.register("hf_dataset")
class HuggingFaceDataset(VLDataset):
    """Images with captions that the package ``datasets`` reads: a folder written by ``save_to_disk``, Parquet files, or
    a dataset of the Hugging Face hub. Needs the extra ``hf``.

    Every row is a sample. In split "train" its text is one of its captions, chosen by the generator where there are
    several; in the other splits all are under ``references``. ``image_id`` is the row's, if it has one, else
    ``<path>:<row>``; ``sample_id`` is ``<name of path>:<row>``, rows from 0.

    Args:
        path: folder, Parquet file, folder or pattern of these (``part-*.parquet``), or the name of a dataset of the
            hub (``owner/name``).
        split: "train", "val" or "test": how samples are made; and, where ``part`` is not given, which rows are read.
        part: split of the dataset as ``datasets`` calls it ("validation", "train[:1%]"); None: that called as
            ``split``, or the only one.
        subset: configuration of a dataset of the hub.
        image_column: images, or their file names.
        caption_column: texts, or lists of texts.
        image_root: where file names of images start from; None: the working directory.
        image_processor: called with (encoded image as bytes, or a path, and a generator).
        text_processor: called with ``text_input`` (not with references).
        limit: use the first so many rows only.

    Raises:
        ConfigError: an argument is wrong, or there is no image processor.
        DataError: the dataset cannot be read, or has no such columns.
        MissingDependency: ``datasets`` is not installed.
    """

    plain_images = True

    def __init__(
        self,
        path: str,
        split: Literal["train", "val", "test"] = "train",
        part: str | None = None,
        subset: str | None = None,
        image_column: str = "image",
        caption_column: str = "caption",
        image_root: str | None = None,
        image_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        check_arguments("hf_dataset", {"split": (split, SPLITS)}, limit, image_processor)
        self.path, self.split, self.root = path, split, os.path.expanduser(image_root or "")
        self.image_column, self.caption_column = image_column, caption_column
        self.image_processor, self.text_processor = image_processor, text_processor
        rows = _choose(_opened(path, part, subset), path, split, part)
        for column in (image_column, caption_column):
            if column not in rows.column_names and (column == image_column or split == "train"):
                known, hint = ", ".join(rows.column_names), did_you_mean(column, rows.column_names)
                raise DataError(
                    f"{path}: no column {column!r}.{hint} It has {known}: set image_column, caption_column."
                )
        self.rows = _encoded(rows, image_column, path)
        if not len(self.rows):
            raise DataError(f"{path}: holds no rows.")
        self._size = len(self.rows) if limit is None else min(limit, len(self.rows))

    def __len__(self) -> int:
        return self._size

    @property
    def training(self) -> bool:
        """Whether captions are drawn."""
        return self.split == "train"

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        row, name = self.rows[index], f"{Path(self.path).name}:{index}"
        captions = _captions(row.get(self.caption_column))
        image_id = row.get("image_id")
        fault = "" if image_id is None else image_id_fault(image_id)
        if fault:
            raise BadSample(name, fault.rstrip("."))
        sample = draw_caption(captions, name, self.training, self.text_processor, rng)
        sample["image_id"] = f"{self.path}:{index}" if image_id is None else image_id
        sample["image"] = self._image(row[self.image_column], name, rng)
        return sample

    def problems(self, limit: int = 20_000) -> list[str]:
        """Rows without a caption. Images are seen when they are read."""
        looked_at = evenly(len(self), limit)
        found = self._id_problems(looked_at)
        if not self.training:
            return found
        texts = self.rows.select_columns([self.caption_column])
        without = [index for index in looked_at if not _captions(texts[index][self.caption_column])]
        few = f"{', '.join(map(str, without[:3]))}{', ...' * (len(without) > 3)}"
        if without:
            found.append(f"{len(without)} of the {len(looked_at)} rows checked have no caption ({few}).")
        return found

    def texts(self, limit: int = 20_000) -> list[Text]:
        if self.caption_column not in self.rows.column_names:
            return []
        rows = self.rows.select_columns([self.caption_column])
        name = Path(self.path).name
        found = (
            (f"{name}:{index}", caption)
            for index in evenly(len(self), limit)
            for caption in _captions(rows[index][self.caption_column])
        )
        return texts_of(found, self.text_processor)

    def images(self) -> Iterator[tuple[str | int, str]]:
        ids = self.rows["image_id"] if "image_id" in self.rows.column_names else None
        for index in range(len(self)):
            name = f"{self.path}:{index}"
            image_id = None if ids is None else ids[index]
            yield (name if image_id is None or image_id_fault(image_id) else image_id), name

    def fingerprint(self) -> str:
        """Split, rows, and the fingerprint that ``datasets`` gives them."""
        return f"{type(self).__name__}:{self.split}:{len(self)}:{self.rows._fingerprint}"

    def _id_problems(self, indices: list[int]) -> list[str]:
        if "image_id" not in self.rows.column_names:
            return []
        ids = self.rows.select_columns(["image_id"])
        given = ((index, ids[index]["image_id"]) for index in indices)
        faults = [(index, image_id_fault(value)) for index, value in given if value is not None]
        bad = [(index, fault) for index, fault in faults if fault]
        rows = f"{', '.join(str(index) for index, _ in bad[:3])}{', ...' * (len(bad) > 3)}"
        return [f"{len(bad)} rows have an image_id that cannot be used ({rows}): {bad[0][1]}"] if bad else []

    def _image(self, value: Any, name: str, rng: np.random.Generator) -> Any:
        if value is None or (value.get("bytes") is None and value.get("path") is None):
            raise BadSample(name, "it has no image")
        try:
            source = value["bytes"] if value.get("bytes") is not None else os.path.join(self.root, value["path"])
            return self.image_processor(source, rng)
        except BadSample as error:  # which may know the bytes only
            raise BadSample(name, error.reason) from error


def _opened(path: str, part: str | None, subset: str | None) -> Any:
    """A Dataset or a DatasetDict."""
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency("datasets", "the dataset hf_dataset", "hf") from error
    place = Path(path).expanduser()
    if any((place / name).is_file() for name in _SAVED):
        return datasets.load_from_disk(str(place))
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else sorted(place.parent.glob(place.name))
    if files:
        return datasets.load_dataset("parquet", data_files=[str(file) for file in files], split=part or "train")
    if place.is_dir() or place.suffix == ".parquet" or place.is_absolute():
        raise DataError(f"{path}: no folder of save_to_disk and no Parquet file. {nearest(str(place))}")
    try:
        return datasets.load_dataset(path, subset, split=part)
    except Exception as error:  # a hub has many ways to fail
        where = " (no connection is opened: VLKIT_OFFLINE or HF_HUB_OFFLINE is set)" if offline() else ""
        raise DataError(
            f"{path}: neither a folder or file here, nor can it be had from the Hugging Face hub{where}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _choose(found: Any, path: str, split: str, part: str | None) -> Any:
    """One split of what was opened."""
    if not isinstance(found, dict):
        return found
    names = [part] if part else {"val": ["val", "validation", "dev"]}.get(split, [split])
    names += list(found) if len(found) == 1 and not part else []
    for name in names:
        if name in found:
            return found[name]
    raise DataError(
        f"{path}: no split {names[0]!r}.{did_you_mean(names[0], found)} Set part: one of {', '.join(found)}."
    )


def _encoded(rows: Any, column: str, path: str) -> Any:
    """The rows with images as they are stored: decoding belongs to the image processor."""
    import datasets

    try:
        return rows.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # arrow's own errors, which differ between versions
        raise DataError(f"{path}: the column {column!r} holds {rows.features[column]}, no images.") from error


def _captions(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]
