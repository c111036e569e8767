"""The dataset ``image_pair``: two images and a sentence that is true or false of them, as in NLVR2."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlkit.datasets.annotation_files import find_file, table_rows
from vlkit.datasets.base import Sample, VLDataset, check_arguments
from vlkit.datasets.columns import IMAGES, LABEL, LEFT, RIGHT, SENTENCE, ColumnKeys, Fields, Key
from vlkit.datasets.faults import Faults, lacks, printable, short
from vlkit.datasets.media import Media, evenly, image_media, media_root, missing_images
from vlkit.datasets.string_table import PackedStrings
from vlkit.datasets.texts import Text, process, texts_of
from vlkit.errors import BadSample
from vlkit.io.files import sha256
from vlkit.registry import DATASETS
from vlkit.registry.bounds import Column, FilledText, PositiveInt

SPLITS, FORMATS, SWAPS = ("train", "val", "test"), ("auto", "json", "jsonl", "csv"), ("sides", "original", "off")
NEED = (
    "A row needs 'images' (two file names; or 'image0' and 'image1'), 'sentence' and 'label' (True or False); "
    "image_key (one or two), sentence_key and label_key say what else they are called."
)
_LABELS = {"true": 1, "1": 1, "false": 0, "0": 0}
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def exchange_sides(sentence: str) -> str:
    """``sentence`` with left for right and right for left, wherever they are words, before a comma or hyphen too."""

    def other(found: re.Match[str]) -> str:
        word = found[0]
        turned = _OTHER[word.lower()]
        return turned.upper() if word.isupper() else turned.capitalize() if word[0].isupper() else turned

    return _SIDE.sub(other, sentence)


def exchange_sides_as_original(sentence: str) -> str:
    """The same for words that stand between spaces: "the right, one" stays, and is then wrong of exchanged images."""
    return " ".join(_OTHER.get(word, word) for word in sentence.split(" "))


@DATASETS.register("image_pair")
class ImagePair(VLDataset):
    """Sentences about pairs of images: your own files, or NLVR2's.

    A row is ``{"images": ["left.png", "right.png"], "sentence": "text", "label": "True"}``; two keys ``image0`` and
    ``image1`` may stand for ``images``, and the label may be a boolean, 0 or 1. Rows stand in a JSON list, one a line
    in JSON (jsonl), or in a CSV file with the columns image0, image1, sentence and label.

    A sample holds ``images`` [2, 3, S, S], ``text_input``, ``label`` (1: true, 0: false), ``image_id`` (both names) and
    ``sample_id`` (``<annotation file>:<row>``). In split "train" the two images change places in half of all draws, and
    the sentence's left and right with them; a sentence that holds neither word is taken to be true of both orders.

    Args:
        path: annotation file.
        image_root: where the names of images start from; None: the folder of the annotation file.
        split: "train", "val" or "test": whether images are exchanged. It chooses no rows.
        format: of the annotation file; "auto" goes by extension and content.
        image_key: the column that holds both images, or the columns of the left and of the right one; None:
            ``images``, or ``image0`` and ``image1``, or common other names.
        sentence_key, label_key: names of the columns; None: ``sentence``, ``label`` or a common other name. As
            ``image_key``, positions from 0 on for rows that are lists, and for CSV files without a header.
        image_pattern: makes an image's file name of what its column holds: ``images/{}.png``.
        swap: which words change when images do: "sides": left and right wherever they are words; "original": only those
            between two spaces, as the original; "off": images are not exchanged.
        image_processor: called with (path, generator).
        text_processor: called with the sentence.
        limit: use at most this number of samples, the first ones.

    Raises:
        ConfigError: an argument is wrong, or there is no image processor.
        DataError: the annotations cannot be read.
    """

    def __init__(
        self,
        path: FilledText,
        image_root: str | None = None,
        split: Literal["train", "val", "test"] = "train",
        format: Literal["auto", "json", "jsonl", "csv"] = "auto",
        image_key: str | Column | list[str | Column] | None = None,
        sentence_key: str | Column | None = None,
        label_key: str | Column | None = None,
        image_pattern: str | None = None,
        swap: Literal["sides", "original", "off"] = "sides",
        image_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        choices = {"split": (split, SPLITS), "format": (format, FORMATS), "swap": (swap, SWAPS)}
        columns, problems = pair_columns(image_key, sentence_key, label_key, image_pattern)
        check_arguments("image_pair", choices, limit, image_processor, others=problems)
        self.split, self.swap = split, swap
        self.image_processor, self.text_processor = image_processor, text_processor
        self.file = find_file(path, split)
        self.root, _ = media_root([self.file], image_root)
        self.names, self.sentences = PackedStrings(), PackedStrings()  # names: the left and the right of each pair
        labels, numbers = array("b"), array("i")
        for number, left, right, sentence, label in _rows(self.file, format, columns):
            self.names.append(left)
            self.names.append(right)
            self.sentences.append(sentence)
            labels.append(label)
            numbers.append(number)
        self.labels, self.numbers = np.array(labels), np.array(numbers)
        self._size = len(labels) if limit is None else min(len(labels), limit)

    def __len__(self) -> int:
        return self._size

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        import torch

        place, sentence = f"{self.file.name}:{self.numbers[index]}", self.sentences[index]
        if not sentence.strip():
            raise BadSample(place, "the sentence is empty")
        if self.split == "train":
            sentence = process(self.text_processor, sentence, place, "sentence")
        elif self.text_processor is not None:
            sentence = self.text_processor(sentence)
        exchanged = self.split == "train" and self.swap != "off" and rng.random() < 0.5
        left, right = self._paths(index)
        if exchanged:
            left, right = right, left
            sentence = (exchange_sides_as_original if self.swap == "original" else exchange_sides)(sentence)
        return {
            "images": torch.stack([self.image_processor(path, rng) for path in (left, right)]),
            "text_input": sentence,
            "label": int(self.labels[index]),
            "image_id": printable(f"{self.names[2 * index]}|{self.names[2 * index + 1]}"),
            "sample_id": place,
        }

    def images(self) -> Iterator[tuple[str | int, str]]:
        for name in dict.fromkeys(self.names[i] for i in range(2 * len(self))):
            yield name, os.path.join(self.root, name)

    def texts(self, limit: int = 20_000) -> list[Text]:
        written = ((f"{self.file.name}:{self.numbers[i]}", self.sentences[i]) for i in evenly(len(self), limit))
        return texts_of(written, self.text_processor)

    def media(self) -> Media:
        return image_media([path for _, path in self.images()], self.image_processor)

    def problems(self, limit: int = 20_000) -> list[str]:
        chosen = evenly(len(self), limit)
        paths = sorted({path for index in chosen for path in self._paths(index)})
        advice = f"Names start from image_root, which is {self.root}: set it, or correct the names."
        found = missing_images(paths, advice) + self.media_problems()
        empty = [index for index in chosen if not self.sentences[index].strip()]
        if empty:
            few = ", ".join(f"{self.file.name}:{self.numbers[index]}" for index in empty[:3])
            found.append(f"{len(empty)} empty sentences ({few}{', ...' * (len(empty) > 3)}). Fill or delete them.")
        used = self.labels[: len(self)]
        if self.split == "train" and len(set(used.tolist())) == 1:
            found.append(f"all {len(self)} labels are {bool(used[0])}: nothing can be learned from them.")
        return found

    def fingerprint(self) -> str:
        """Split, samples, and the SHA-256 of the annotation file."""
        return f"{type(self).__name__}:{self.split}:{len(self)}:{self._hash}"

    @cached_property
    def _hash(self) -> str:
        return sha256(self.file)

    def _paths(self, index: int) -> tuple[str, str]:
        return (
            os.path.join(self.root, self.names[2 * index]),
            os.path.join(self.root, self.names[2 * index + 1]),
        )


def pair_columns(
    image_key: Key | list[Key] | None, sentence_key: Key | None, label_key: Key | None, pattern: str | None
) -> tuple[ColumnKeys, list[str]]:
    """The columns of a table of pairs, and what is wrong with the keys that the user set."""
    images = image_key if isinstance(image_key, list) else [image_key]
    names = ["images"] if len(images) == 1 else ["image0", "image1"]
    keys: dict[str, Key | None] = {**dict(zip(names, images)), "sentence": sentence_key, "label": label_key}
    columns = [IMAGES, LEFT, RIGHT, SENTENCE, LABEL]
    needed = [*(names if image_key is not None else []), "sentence", "label"]
    found = ColumnKeys(columns, needed, keys, pattern, ("images", "image0", "image1"), "image_pattern")
    problems = found.problems()
    if isinstance(image_key, list) and len(images) != 2:
        problems.append(f"image_key: {image_key} given; one column, or those of the left and of the right image.")
    return found, problems


def _rows(file: Path, format: str, columns: ColumnKeys) -> Iterator[tuple[int, str, str, str, int]]:
    """Number, left and right image, sentence and label of each row; faults are reported together, after the last."""
    faults = Faults(file, need=NEED)
    empty = True
    for number, fields in table_rows(file, format, faults, columns.of(file)):
        empty = False
        row = _row(fields)
        if isinstance(row, str):
            faults.add(number, row)
        else:
            yield (number, *row)
    faults.raise_where_empty(empty)


def _row(fields: Fields) -> tuple[str, str, str, int] | str:
    """Both images, sentence and label of a row, or a sentence that says why it is none."""
    apart = "images" not in fields
    missing = [name for name in ("image0", "image1") if apart and name not in fields]
    if missing:
        return lacks("images" if len(missing) == 2 else missing[0], fields) + " Set image_key."
    images = [fields["image0"], fields["image1"]] if apart else fields["images"]
    if not isinstance(images, list) or len(images) != 2:
        return f"{fields.shown('images')} is {short(images)}, not a list of two file names."
    for image in images:
        if not isinstance(image, str) or not image.strip():
            return f"an image is {short(image)}, not a file name."
    sentence, label = fields["sentence"], fields["label"]
    if not isinstance(sentence, str):
        return f"{fields.shown('sentence')} is {short(sentence)}, not a text."
    known = _LABELS.get(str(label).strip().lower()) if isinstance(label, (str, int)) else None
    if known is None:
        return f"{fields.shown('label')} is {short(label)}, neither True nor False."
    # Half of a surrogate pair, as cut-off emoji leave it in JSON, is no text: tokenizers fail on it.
    return images[0], images[1], sentence.encode("utf-8", "replace").decode(), known
