"""Images and their captions in a few flat arrays."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlkit.datasets.annotations import Row
from vlkit.datasets.base import Sample
from vlkit.datasets.image_ids import printable
from vlkit.datasets.string_table import PackedStrings
from vlkit.datasets.texts import Text, process, texts_of
from vlkit.errors import BadSample

_SHOWN = 3


class Source(NamedTuple):
    """One annotation file.

    Args:
        name: what sample ids call it.
        folder: put in front of its image names; may be empty.
        rows: its rows.
    """

    name: str
    folder: str
    rows: Iterable[Row]


def draw_caption(
    captions: list[str], name: str, training: bool, text_processor: Any, rng: np.random.Generator
) -> Sample:
    """What ``captions`` give to the sample ``name`` of a dataset where every image is one: in training one of them,
    drawn; otherwise the first, and all under ``references``.

    Raises:
        BadSample: there is none to train on, or the processor leaves nothing of it.
    """
    if training and not captions:
        raise BadSample(name, "it has no caption")
    chosen = int(rng.integers(len(captions))) if training and len(captions) > 1 else 0
    text = captions[chosen] if captions else ""
    sample: Sample = {"sample_id": name} if training else {"sample_id": name, "references": captions}
    if training:
        sample["text_input"] = process(text_processor, text, name, "caption")
    else:
        sample["text_input"] = text if text_processor is None else text_processor(text)
    return sample


class CaptionTable:
    """Images in the order of their first row, captions in the order of the rows.

    Rows that name the same image are joined.

    Args:
        sources: read one after the other.

    Attributes:
        images: names of the images.
        captions: all captions.
        image_of: int32 [captions], the image that each is of.
        counts: int64 [images], the captions that each has.
        conflicts: the first image ids that do not tell images apart, one clause each.
        conflict_count: of all of them.
    """

    def __init__(self, sources: Iterable[Source]):
        self.images, self.captions, self._ids = PackedStrings(), PackedStrings(), PackedStrings()
        self._domains, self._domain_of = dict[str, int](), array("i")
        self.files: list[str] = []
        self.conflicts: list[str] = []
        self.conflict_count = 0
        images, captions = _Places(), _Places()
        image_of, numbers, owners = array("i"), dict[str, int](), dict[str, int]()
        for source in sources:
            for row in source.rows:
                name = os.path.join(source.folder, row.image)
                number = numbers.get(name)
                if number is None:
                    number = numbers[name] = len(self.images)
                    self._add_image(name, row, owners)
                    images.add(len(self.files), row.number, 0)
                elif row.image_id is not None and json.dumps(row.image_id) != self._ids[number]:
                    self._conflict(f"{name} has the ids {self._ids[number]} and {json.dumps(row.image_id)}")
                for part, caption in enumerate(row.captions, 1):
                    self.captions.append(caption)
                    image_of.append(number)
                    captions.add(len(self.files), row.number, part if len(row.captions) > 1 else 0)
            self.files.append(source.name)
        self.image_of = np.array(image_of, np.int32)
        self.counts = np.bincount(self.image_of, minlength=len(self.images))
        self._image_places, self._caption_places = images, captions
        self._by_image = np.argsort(self.image_of, kind="stable").astype(np.int32)
        self._starts = np.cumsum(self.counts) - self.counts

    def image_id(self, image: int) -> str | int:
        """What the rows call the image, else its name; what is no Unicode text in it is written out."""
        image_id = json.loads(self._ids[image])
        return printable(image_id) if isinstance(image_id, str) else image_id

    def domain(self, image: int) -> str | None:
        """What the rows call the domain of the image."""
        number = self._domain_of[image]
        return list(self._domains)[number] if number >= 0 else None

    def captions_of(self, image: int) -> list[str]:
        """All captions of an image."""
        start = self._starts[image]
        return [self.captions[int(i)] for i in self._by_image[start : start + self.counts[image]]]

    def sample(self, index: int, training: bool, text_processor: Any = None) -> Sample:
        """Everything of a sample but the image or video itself.

        Args:
            index: of the caption in training, else of the image.
            training: whether every caption is a sample; otherwise every image is.
            text_processor: called with ``text_input`` (not with references).

        Returns:
            ``text_input``, ``image_id``, ``sample_id``; outside of training ``references`` and, where rows have it,
            ``domain``.

        Raises:
            BadSample: the caption to train on is empty, or the processor leaves nothing of it.
        """
        image = self.image(index, training)
        sample: Sample = {"image_id": self.image_id(image)}
        if training:
            sample["sample_id"], text = self.caption_place(index), self.captions[index]
            if not text.strip():
                raise BadSample(sample["sample_id"], "the caption is empty")
            sample["text_input"] = process(text_processor, text, sample["sample_id"], "caption")
        else:
            references = [caption for caption in self.captions_of(image) if caption.strip()]
            sample["sample_id"], text = self.image_place(image), (references or [""])[0]
            sample["references"] = references
            domain = self.domain(image)
            if domain is not None:
                sample["domain"] = domain
            sample["text_input"] = text if text_processor is None else text_processor(text)
        return sample

    def texts(self, indices: Sequence[int], training: bool, text_processor: Any = None) -> list[Text]:
        """The captions of some samples, with where each is written; arguments are those of :meth:`sample`."""
        if training:
            return texts_of(((self.caption_place(i), self.captions[i]) for i in indices), text_processor)
        found = ((self.image_place(i), caption) for i in indices for caption in self.captions_of(i))
        return texts_of(found, text_processor)

    def image(self, index: int, training: bool) -> int:
        """The image of a sample."""
        return int(self.image_of[index]) if training else index

    def image_place(self, image: int) -> str:
        """``file:row`` where the image is first named."""
        return self._image_places.show(image, self.files)

    def caption_place(self, caption: int) -> str:
        """``file:row`` of a caption, or ``file:row.k`` for the k-th of several (from 1)."""
        return self._caption_places.show(caption, self.files)

    def _add_image(self, name: str, row: Row, owners: dict[str, int]) -> None:
        identity: Any = json.dumps(name if row.image_id is None else row.image_id)
        owner = owners.setdefault(identity, len(self.images))
        if owner != len(self.images):
            self._conflict(f"{identity} is the id of {self.images[owner]} and of {name}")
        self.images.append(name)
        self._ids.append(identity)
        domain = row.domain
        self._domain_of.append(-1 if domain is None else self._domains.setdefault(domain, len(self._domains)))

    def _conflict(self, text: str) -> None:
        self.conflict_count += 1
        if len(self.conflicts) < _SHOWN:
            self.conflicts.append(text)


class _Places:
    """Where things were read."""

    def __init__(self) -> None:
        self.files, self.rows, self.parts = array("i"), array("i"), array("i")

    def add(self, file: int, row: int, part: int) -> None:
        self.files.append(file)
        self.rows.append(row)
        self.parts.append(part)

    def show(self, index: int, files: list[str]) -> str:
        part = self.parts[index]
        return f"{files[self.files[index]]}:{self.rows[index]}" + (f".{part}" if part else "")
