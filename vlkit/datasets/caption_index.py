"""Captions of images and videos: rows of annotation files, and an index of them in flat arrays."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from vlkit.datasets.annotation_files import METADATA, SPLIT_FOLDERS, table_rows
from vlkit.datasets.base import Sample
from vlkit.datasets.coco import PARTS
from vlkit.datasets.columns import CAPTION, IMAGE, IMAGE_ID, VIDEO, ColumnKeys, Fields, Key
from vlkit.datasets.faults import Faults, image_id_fault, printable, short
from vlkit.datasets.texts import PackedStrings, RowOffsets, Source, Text, process, texts_of, valid_text
from vlkit.errors import BadSample, DataError, did_you_mean

_SHOWN = 3
_PATTERNS = {"image": "images/{}.jpg", "video": "video{}.mp4"}
_NAMES = {"image": "'image'", "video": "'video' or 'clip_name'"}
_NEED = (
    "A row needs {} (a file name) and 'caption' (a text or a list of texts); {}_key and caption_key say what else they "
    "are called."
)


class Row(NamedTuple):
    """One row of an annotation file.

    Args:
        number: of the line (jsonl, csv, txt), else of the entry in the list; from 1.
        image: name of the image or video file, as written.
        captions: empty if the row has no caption.
        image_id: as written, or None.
        domain: the part of the data that the image belongs to, as in nocaps; or None.
    """

    number: int
    image: str
    captions: list[str]
    image_id: str | int | None
    domain: str | None = None


def caption_columns(
    needed: bool, keys: Mapping[str, Key | None] | None = None, pattern: str | None = None, media: str = "image"
) -> ColumnKeys:
    """Return the columns of a table of images (or videos) with captions.

    Args:
        needed: whether each row needs a caption.
        keys: ``media``, "caption" and "image_id" to the key that the user set.
        pattern: makes file names of the values of the column ``media``.
        media: "image" or "video".
    """
    columns = [IMAGE, CAPTION, IMAGE_ID] if media == "image" else [VIDEO, CAPTION]
    return ColumnKeys(
        columns, [media, "caption"] if needed else [media], keys or {}, pattern, (media,), f"{media}_pattern"
    )


def read_rows(
    file: Path,
    format: str = "auto",
    need_captions: bool = False,
    image_ids: str = "rows",
    columns: ColumnKeys | None = None,
    split: str | None = None,
    parts: Sequence[str] = (),
    media: str = "image",
) -> Iterator[Row]:
    """Yield the rows of ``file`` in its order; of a COCO file one per image.

    Args:
        file: annotation file.
        format: one of ``FORMATS``; "auto": by extension and content.
        need_captions: whether a row without a caption is a fault.
        image_ids: "rows": as written; "coco": those of :func:`coco_image_id`.
        columns: columns to read; None: those of :func:`caption_columns`.
        split: "train", "val", "test": the rows to read of a file with several splits: Karpathy's (of which "train"
            reads ``restval`` too), and the metadata file of an imagefolder with a folder for each split.
        parts: values of the column ``split`` of the rows to read; none: as ``split`` says.
        media: "image" or "video".

    Raises:
        DataError: the file cannot be read, or has no rows. Faults of single rows are reported together, after the last
            row; inside :func:`~vlkit.datasets.faults.collect_faults` these rows are skipped.
    """
    faults = Faults(file, need=_NEED.format(_NAMES[media], media))
    selection = _Selection(parts, split, file)
    coco = image_ids == "coco"
    found = (columns or caption_columns(need_captions, media=media)).of(file)
    empty = True
    for number, fields in table_rows(file, format, faults, found):
        empty = False
        name, captions = fields[media], listed_captions(fields.get("caption"))
        fault = _fault(fields, name, captions, media) or (selection.fault(fields) if parts else "")
        fault = fault or (_coco_id_fault(name) if coco else "")
        if fault:
            faults.add(number, fault)
        elif selection.takes(fields):
            if need_captions and not captions:
                faults.unused(number, "it has no caption to train on.")
            texts = list(map(valid_text, captions))
            if media == "video":
                yield Row(number, name, texts, None)
                continue
            image_id, domain = coco_image_id(name) if coco else fields.get("image_id"), fields.get("domain")
            yield Row(number, name, texts, None if image_id == "" else image_id, printable(domain) if domain else None)
    selection.finish()
    faults.raise_where_empty(empty)


class _Selection:
    """Selects the rows of a split in a file with several.

    Args:
        parts, split: as for :func:`read_rows`.
        file: annotation file.
    """

    def __init__(self, parts: Sequence[str], split: str | None, file: Path):
        self._parts, self._split, self._metadata = parts, split, file.name in METADATA
        self._file, self._met = file, dict[str, None]()
        self._taken = False
        self._whole = not parts and not self._metadata

    def fault(self, fields: Fields) -> str:
        """Return why it is unknown whether the row belongs to the split, or ""."""
        if isinstance(fields.get("split"), str):
            return ""
        return f"'split' is {short(fields.get('split'))}, and part: {', '.join(self._parts)} is set."

    def takes(self, fields: Fields) -> bool:
        """Return whether to read the row."""
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
        taken = not parts or own in parts
        self._taken |= taken
        if not taken:
            self._met[str(own)] = None
        return taken

    def finish(self) -> None:
        """Call after the last row.

        Raises:
            DataError: no row was taken.
        """
        if self._met and not self._taken:
            wanted = self._parts or [str(self._split)]
            only = f"{', '.join(self._met)}.{did_you_mean(wanted[0], self._met)}"
            raise DataError(f"{self._file}: holds no rows of {' or '.join(map(repr, wanted))}, only of {only}")


def _fault(fields: Fields, name: Any, captions: list[Any], media: str) -> str:
    """Return what is wrong with the values of a row, or ""."""
    if not isinstance(name, str) or not name.strip():
        advice = f" {media}_pattern makes names of numbers: {_PATTERNS[media]}." if type(name) is int else ""
        return f"{fields.shown(media)} is {short(name)}, not a file name.{advice}"
    if media == "image" and name.startswith(("http://", "https://")):
        return f"{fields.shown('image')} is an address: download the images first, with img2dataset for example."
    if any(type(text) is not str for text in captions):
        return f"{fields.shown('caption')} is {short(fields.get('caption'))}, neither a text nor a list of texts."
    if media == "video":
        return ""
    if not isinstance(fields.get("domain"), (str, type(None))):
        return f"'domain' is {short(fields['domain'])}, not a text."
    identity = fields.get("image_id")
    if identity is None or type(identity) is str or not image_id_fault(identity):
        return ""
    return image_id_fault(identity, fields.label("image_id"))


def coco_image_id(name: str) -> int | None:
    """Return COCO's id of an image file: the number after the last underscore of its name; None: there is none.

    ``val2014/COCO_val2014_000000391895.jpg`` has the id 391895.
    """
    number = PurePosixPath(name).stem.rpartition("_")[2]
    return int(number) if number.isascii() and number.isdigit() else None


def _coco_id_fault(image: str) -> str:
    identity = coco_image_id(image)
    if identity is None:
        return f"{short(image)} has no number after its last underscore, as image_ids: coco needs."
    return image_id_fault(identity, "image_id")


def listed_captions(value: Any) -> list[Any]:
    """Return the captions in the column of a row as a list: a text, several, or mappings with a text under ``raw``, as
    in Karpathy's files. Values that are not texts are kept."""
    if isinstance(value, str):
        return [value]
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [each["raw"] if isinstance(each, dict) and "raw" in each else each for each in values]


class CaptionTable:
    """Images in the order of their first row, captions in the order of the rows.

    Rows that name the same image are joined.

    Args:
        sources: files of :class:`Row`, read one after the other.

    Attributes:
        images: names of the images.
        captions: all captions.
        image_of: int32 [captions], the image of each caption.
        counts: int64 [images], the number of captions of each image.
        conflicts: the first image ids that do not distinguish images, one clause each.
        conflict_count: number of all of them.
    """

    def __init__(self, sources: Iterable[Source]):
        self.images, self.captions, self._ids = PackedStrings(), PackedStrings(), PackedStrings()
        self._domains, self._domain_of = dict[str, int](), array("i")
        self.files: list[str] = []
        self.conflicts: list[str] = []
        self.conflict_count = 0
        self._image_places, self._caption_places = RowOffsets(), RowOffsets()
        image_of, numbers, owners = array("i"), dict[str, int](), dict[str, int]()
        ids: list[str | int] = []
        for source in sources:
            for row in source.rows:
                name = os.path.join(source.folder, row.image) if source.folder else row.image
                number = numbers.get(name)
                if number is None:
                    number = numbers[name] = len(self.images)
                    ids.append(name if row.image_id is None else row.image_id)
                    self._add_image(name, row, owners)
                elif row.image_id is not None and row.image_id != ids[number]:
                    self._conflict(f"{name} has the ids {self._ids[number]} and {json.dumps(row.image_id)}")
                for part, caption in enumerate(row.captions, 1):
                    self.captions.append(caption)
                    image_of.append(number)
                    self._caption_places.add(len(self.files), row.number, part if len(row.captions) > 1 else 0)
            self.files.append(source.name)
        self.image_of = np.array(image_of, np.int32)
        self.counts = np.bincount(self.image_of, minlength=len(self.images))
        self._by_image = np.argsort(self.image_of, kind="stable").astype(np.int32)
        self._starts = np.cumsum(self.counts) - self.counts

    def image_id(self, image: int) -> str | int:
        """Return the id of an image in the rows, or its name; invalid Unicode is escaped."""
        image_id = json.loads(self._ids[image])
        return printable(image_id) if isinstance(image_id, str) else image_id

    def captions_of(self, image: int) -> list[str]:
        """Return all captions of an image."""
        start = self._starts[image]
        return [self.captions[int(i)] for i in self._by_image[start : start + self.counts[image]]]

    def sample(self, index: int, training: bool, text_processor: Any = None) -> Sample:
        """Return a sample without its image or video.

        Args:
            index: of the caption in training, else of the image.
            training: whether every caption is a sample; otherwise every image is.
            text_processor: called with ``text_input`` (not with references).

        Returns:
            ``text_input``, ``image_id``, ``sample_id``; outside of training ``references`` and, if rows have it,
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
        else:
            references = [caption for caption in self.captions_of(image) if caption.strip()]
            sample["sample_id"], text = self.image_place(image), (references or [""])[0]
            sample["references"] = references
            domain = self._domain_of[image]
            if domain >= 0:
                sample["domain"] = list(self._domains)[domain]
        sample["text_input"] = process(text_processor, text, sample["sample_id"], "caption", training)
        return sample

    def texts(self, indices: Sequence[int], training: bool, text_processor: Any = None) -> list[Text]:
        """Return the captions of some samples with their positions; arguments are those of :meth:`sample`."""
        if training:
            return texts_of(((self.caption_place(i), self.captions[i]) for i in indices), text_processor)
        found = ((self.image_place(i), caption) for i in indices for caption in self.captions_of(i))
        return texts_of(found, text_processor)

    def image(self, index: int, training: bool) -> int:
        """Return the image of a sample."""
        return int(self.image_of[index]) if training else index

    def image_place(self, image: int) -> str:
        """Return ``file:row`` of the first row of an image."""
        return self._image_places.show(image, self.files)

    def caption_place(self, caption: int) -> str:
        """Return ``file:row`` of a caption, or ``file:row.k`` for the k-th of several (from 1)."""
        return self._caption_places.show(caption, self.files)

    def _add_image(self, name: str, row: Row, owners: dict[str, int]) -> None:
        identity: Any = json.dumps(name if row.image_id is None else row.image_id)
        owner = owners.setdefault(identity, len(self.images))
        if owner != len(self.images):
            self._conflict(f"{identity} is the id of {self.images[owner]} and of {name}")
        self.images.append(name)
        self._ids.append(identity)
        self._image_places.add(len(self.files), row.number)
        domain = row.domain
        self._domain_of.append(-1 if domain is None else self._domains.setdefault(domain, len(self._domains)))

    def _conflict(self, text: str) -> None:
        self.conflict_count += 1
        if len(self.conflicts) < _SHOWN:
            self.conflicts.append(text)
