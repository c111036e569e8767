"""Images and their captions in a few flat arrays."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from vlkit.datasets.annotation_files import METADATA, NEED, SPLIT_FOLDERS, table_rows
from vlkit.datasets.base import Sample
from vlkit.datasets.coco import PARTS
from vlkit.datasets.columns import CAPTION, IMAGE, IMAGE_ID, VIDEO, ColumnKeys, Fields, Key
from vlkit.datasets.faults import Faults, image_id_fault, printable, short
from vlkit.datasets.string_table import PackedStrings
from vlkit.datasets.texts import Text, process, texts_of
from vlkit.errors import BadSample, DataError, did_you_mean


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
        self._parts, self._split, self._metadata = parts, split, file.name in METADATA
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


_VIDEO_NEED = (
    "A row needs 'video' or 'clip_name' (a file name) and 'caption' (a text or a list of texts); video_key and "
    "caption_key say what else they are called."
)


def video_columns(needed: bool, keys: Mapping[str, Key | None] | None = None, pattern: str | None = None) -> ColumnKeys:
    """The columns of a table of videos with captions.

    Args:
        needed: whether each row needs a caption.
        keys: "video" and "caption" to what the user set.
        pattern: makes file names of the values of the column of the video.
    """
    names = ["video", "caption"] if needed else ["video"]
    return ColumnKeys([VIDEO, CAPTION], names, keys or {}, pattern, ("video",), "video_pattern")


def caption_rows(file: Path, need_captions: bool = False, columns: ColumnKeys | None = None) -> Iterator[Row]:
    """Videos and captions, ``{"video", "caption"}`` or ``{"clip_name", "caption"}``, in the order of the file.

    Args:
        file: annotation file.
        need_captions: a row without a caption is a fault.
        columns: which columns to read; None: those of :func:`video_columns`.

    Raises:
        DataError: the file cannot be read, or has no rows. Faults of single rows are reported together, after the last
            row.
    """
    faults = Faults(file, need=_VIDEO_NEED)
    empty = True
    for number, fields in table_rows(file, "auto", faults, (columns or video_columns(need_captions)).of(file)):
        empty = False
        row = _video_row(number, fields)
        if isinstance(row, str):
            faults.add(number, row)
        else:
            if need_captions and not row.captions:
                faults.unused(number, "it has no caption to train on.")
            yield row
    faults.raise_where_empty(empty)


def _video_row(number: int, fields: Fields) -> Row | str:
    """A row, or a sentence that says why there is none."""
    name, caption = fields["video"], fields.get("caption")
    if not isinstance(name, str) or not name.strip():
        advice = " video_pattern makes names of numbers: video{}.mp4." if type(name) is int else ""
        return f"{fields.shown('video')} is {short(name)}, not a file name.{advice}"
    texts = listed_captions(caption)
    if not all(isinstance(text, str) for text in texts):
        return f"{fields.shown('caption')} is {short(caption)}, neither a text nor a list of texts."
    return Row(number, name, plain_captions(texts), None)


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
