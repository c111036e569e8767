"""Read sample dictionaries: check their keys, and batch their pictures and texts.

Shapes: ``B`` images or videos, ``N`` texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch

from vlkit.errors import VlkitError, did_you_mean
from vlkit.models.arguments import as_mapping, check_whole, text_list
from vlkit.models.inputs import Items, PictureReader
from vlkit.models.packing import TextBatch

Samples = Mapping[str, Any]
Texts = Literal["none", "paired", "grouped", "every"]
T = TypeVar("T")


class SampleReader(Protocol):
    """What reading samples needs of a model; see :class:`~vlkit.models.blip.base.BlipBase`."""

    @property
    def picture_groups(self) -> tuple[tuple[str, ...], ...]: ...
    @property
    def sample_keys(self) -> tuple[str, ...]: ...
    @property
    def unread_keys(self) -> tuple[str, ...]: ...

    pictures: PictureReader

    def picture_items(self, samples: Samples) -> dict[str, Items]: ...
    def tokenize(self, texts: Sequence[str] | str) -> TextBatch: ...


LIST_BATCH = 32
"""Pictures of a list that are read and encoded at once, if the caller gives no ``batch_size``."""

PICTURES = ("image", "video", "image0", "image1", "images")
_TRAINING = ("answers", "weights", "answer", "weight", "n_answers", "targets", "labels", "dialog_texts", "filter_image")
_READ = ("text_input", "texts", "image_index", "label", "dialog", "image_id", *_TRAINING)
# Further keys of batches of datasets, ours and LAVIS's. No call reads them, but a batch is accepted as samples.
_LAVIS_FIELDS = ("instance_id", "text_output", "epoch", "iters", "num_iters_per_epoch")
_SCENE_FIELDS = ("negatives", "scene", "scenes", "domain", "kind")
_FIELDS = ("index", "sample_id", "question_id", "references", *_SCENE_FIELDS, *_LAVIS_FIELDS)
KNOWN = (*PICTURES, *_READ, *_FIELDS)


def wanted(samples: Samples, key: str, model: str) -> Any:
    """Return ``samples[key]``.

    Raises:
        VlkitError: the key is missing; the message lists the keys.
    """
    as_mapping("samples", samples, f"{{{key!r}: ...}}")
    if key not in samples:
        given = ", ".join(map(repr, samples)) or "nothing"
        # 'image0' is not meant by a missing 'image1', but 'images' may be by 'image'.
        likely = [other for other in samples if other not in KNOWN or other in ("image", "images", "video")]
        near = [other for other in likely if did_you_mean(other, [key])]
        hint = f" Did you mean {key!r} by {near[0]!r}?" if near else ""
        raise VlkitError(f"{model} needs samples with {key!r}; given: {given}.{hint}")
    return samples[key]


def given_texts(samples: Samples, model: str) -> Any:
    """Return ``texts`` of the samples, else their ``text_input``.

    Raises:
        VlkitError: both are missing.
    """
    if "texts" in as_mapping("samples", samples, "{'text_input': ...}"):
        return samples["texts"]
    return wanted(samples, "text_input", model)


def refuse_unknown(samples: Samples, model: str, reads: Sequence[str]) -> None:
    """Raise if ``samples`` hold a key that neither ``model`` reads nor any dataset gives.

    Raises:
        VlkitError: a key is unknown; the message gives the closest known one.
    """
    for key in samples:
        if key not in KNOWN and key not in reads:
            hint = did_you_mean(key, reads) or did_you_mean(key, KNOWN)
            raise VlkitError(f"{model} knows no sample key {key!r}.{hint} It reads {', '.join(reads)}.")


def check_keys(samples: Samples, model: SampleReader) -> None:
    """Raise if ``samples`` hold a key that no call and no dataset knows, or pictures that ``model`` does not read.

    Raises:
        VlkitError: a key is unknown, or two keys give the pictures.
    """
    name, reads = type(model).__name__, [key for group in model.picture_groups for key in group]
    refuse_unknown(samples, name, (*reads, *model.sample_keys))
    for key in samples:
        if key in PICTURES and key not in (*reads, *model.unread_keys):
            raise VlkitError(f"{name} reads pictures from {' or '.join(map(repr, reads))}, not from {key!r}.")
    given = [group[0] for group in model.picture_groups if any(key in samples for key in group)]
    if len(given) > 1:
        raise VlkitError(f"{name} was given {' and '.join(map(repr, given))}; give one of them.")


class Batches:
    """Split samples into batches of consecutive images, with their texts. Pictures are read when iteration gets there.

    Args:
        model: gives the known keys and the picture reader.
        samples: as the caller gave them.
        size: images of a batch; None: float tensors are one batch, all else is read :data:`LIST_BATCH` at a time.
            Samples with ``image_index`` are always one batch.
        texts: "none": not read; "paired": one for each image, and a single string is repeated for all images;
            "grouped": the same number for each image, one image after the other; "every": all of them with each image.

    Attributes:
        count: B.

    Raises:
        VlkitError: a key is unknown or missing, there are no pictures, or texts and pictures do not fit in number.
    """

    def __init__(self, model: SampleReader, samples: Samples, size: int | None = None, texts: Texts = "none"):
        if size is not None:
            check_whole("batch_size", size, 1)
        self.model, self.mode, self.samples = model, texts, samples
        self.items = model.picture_items(samples)
        check_keys(samples, model)
        self.count = _count(self.items, type(model).__name__)
        self.texts = None if texts == "none" else self._read_texts()
        if "image_index" in samples:
            self.size = self.count
        elif size is not None:
            self.size = size
        else:
            tensors = all(torch.is_tensor(items) for items in self.items.values())
            self.size = self.count if tensors else LIST_BATCH

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the samples of each batch: pictures as tensors, texts as ``texts``."""
        for part in self.slices():
            found = {key: value for key, value in self.samples.items() if key not in PICTURES} | self._opened(part)
            if self.texts is not None:
                found["texts"] = self._texts_of(self.texts, part)
            yield found

    def slices(self) -> Iterator[slice]:
        """Yield the images of each batch."""
        for start in range(0, self.count, self.size):
            yield slice(start, min(start + self.size, self.count))

    def all_texts(self) -> TextBatch:
        """Return the texts of all batches."""
        if self.texts is None:
            raise ValueError("texts are read with the modes 'paired', 'grouped' and 'every'")
        return self.texts

    def whole(self) -> dict[str, Any]:
        """Return all samples as one batch."""
        self.size = self.count
        return next(iter(self))

    def _opened(self, part: slice) -> dict[str, Any]:
        read = self.model.pictures.read
        return {key: read(items[part], key, part.start) for key, items in self.items.items()}

    def _read_texts(self) -> TextBatch:
        name, indexed = type(self.model).__name__, "image_index" in self.samples
        given = given_texts(self.samples, name)
        if isinstance(given, str) and self.mode != "every" and not indexed:
            given = [given] * self.count
        texts = given if isinstance(given, TextBatch) else self.model.tokenize(text_list("text_input", given))
        if indexed:
            check_image_index(self.samples["image_index"], self.count, len(texts))
        elif self.mode == "paired" and len(texts) != self.count:
            raise VlkitError(f"{name} needs one text an image; given: {self.count} images, {len(texts)} texts.")
        elif self.mode == "grouped" and (len(texts) % self.count or not len(texts)):
            raise VlkitError(
                f"{name} needs one text an image, or the same number for each, one image after the other; given: "
                f"{self.count} images, {len(texts)} texts."
            )
        return texts

    def _texts_of(self, texts: TextBatch, part: slice) -> TextBatch:
        if self.mode == "every" or self.size >= self.count:
            return texts
        each = len(texts) // self.count
        return texts.select(range(part.start * each, part.stop * each))


def check_image_index(given: Any, images: int, texts: int) -> None:
    """Raise unless ``image_index`` names one of ``images`` images for each of ``texts`` texts.

    Raises:
        VlkitError: it does not.
    """
    index = np.asarray(given.cpu() if torch.is_tensor(given) else given)
    whole = index.shape == (texts,) and index.dtype.kind in "iu"
    if not whole or (texts and not 0 <= index.min() <= index.max() < images):
        raise VlkitError(
            f"image_index must name an image, 0 to {images - 1}, for each of {texts} texts; given: "
            f"{index.tolist() if index.size < 10 else list(index.shape)}."
        )


def _count(given: Mapping[str, Items], model: str) -> int:
    counts = {key: len(items) for key, items in given.items()}
    if len(set(counts.values())) > 1:
        sizes = [list(items.shape) if torch.is_tensor(items) else len(items) for items in given.values()]
        listed = ", ".join(f"{key} {size}" for key, size in zip(given, sizes))
        raise VlkitError(f"{model} needs as many pictures of one as of the other; given: {listed}.")
    return next(iter(counts.values()))


def joined(parts: Sequence[T]) -> T:
    """Concatenate the results of all batches: a dataclass whose fields are lists with one entry an image."""
    fields = [field.name for field in dataclasses.fields(parts[0])]  # type: ignore[arg-type]
    lists = {name: [row for part in parts for row in getattr(part, name)] for name in fields}
    return type(parts[0])(**lists)
