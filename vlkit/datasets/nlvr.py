"""The dataset ``image_pair``: two images and a sentence that is true or false of them, as in NLVR2."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from vlkit.datasets.annotated import AnnotatedDataset
from vlkit.datasets.annotation_files import parsed_rows, table_rows
from vlkit.datasets.base import SPLITS, Sample, check_arguments
from vlkit.datasets.columns import IMAGES, LABEL, LEFT, RIGHT, SENTENCE, ColumnKeys, Fields, Key
from vlkit.datasets.faults import Faults, lacks, listed, printable, short
from vlkit.datasets.media import evenly
from vlkit.datasets.texts import PackedStrings, Text, process, texts_of, valid_text
from vlkit.errors import BadSample
from vlkit.registry import DATASETS
from vlkit.registry.bounds import Column, FilledText, PositiveInt

FORMATS, SWAPS = ("auto", "json", "jsonl", "csv"), ("sides", "original", "off")
NEED = (
    "A row needs 'images' (two file names; or 'image0' and 'image1'), 'sentence' and 'label' (True or False); "
    "image_key (one or two), sentence_key and label_key say what else they are called."
)
_LABELS = {"true": 1, "1": 1, "false": 0, "0": 0}
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def exchange_sides(sentence: str) -> str:
    """Exchange the words left and right, also before a comma or hyphen, and keep their case."""

    def other(found: re.Match[str]) -> str:
        word = found[0]
        turned = _OTHER[word.lower()]
        return turned.upper() if word.isupper() else turned.capitalize() if word[0].isupper() else turned

    return _SIDE.sub(other, sentence)


def exchange_sides_as_original(sentence: str) -> str:
    """Exchange left and right between spaces only: "the right, one" stays, and is then wrong for exchanged images."""
    return " ".join(_OTHER.get(word, word) for word in sentence.split(" "))


@DATASETS.register("image_pair")
class ImagePair(AnnotatedDataset):
    """Sentences about pairs of images: your own files, or NLVR2's.

    A row is ``{"images": ["left.png", "right.png"], "sentence": "text", "label": "True"}``; two keys ``image0`` and
    ``image1`` may stand for ``images``, and the label may be a boolean, 0 or 1. Rows are in a JSON list, in JSON lines,
    or in a CSV file with the columns image0, image1, sentence and label.

    A sample holds ``images`` [2, 3, S, S], ``text_input``, ``label`` (1: true, 0: false), ``image_id`` (both names) and
    ``sample_id`` (``<annotation file>:<row>``). In split "train" the two images are exchanged with probability
    1/2, and "left" and "right" in the sentence with them; a sentence without these words holds for both orders.

    Args:
        path: annotation file.
        image_root: folder that names of images are relative to; None: that of the annotation file.
        split: "train", "val" or "test": whether images are exchanged. It does not select rows.
        format: of the annotation file; "auto": by extension and content.
        image_key: the column that holds both images, or the columns of the left and of the right one; None:
            ``images``, or ``image0`` and ``image1``, or common other names.
        sentence_key, label_key: names of the columns; None: ``sentence``, ``label`` or a common other name. As
            ``image_key``, positions from 0 on for rows that are lists, and for CSV files without a header.
        image_pattern: makes the file name of an image from the value of its column: ``images/{}.png``.
        swap: words to exchange with the images: "sides": left and right wherever they are words; "original": only those
            between two spaces, as the original; "off": images are not exchanged.
        image_processor: called with (path, generator).
        text_processor: called with the sentence.
        limit: number of samples to use, the first ones; None: all.

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
        super().__init__([path], image_root, split, image_processor, text_processor)
        self.swap = swap
        self.names, self.sentences = PackedStrings(), PackedStrings()  # names: left and right of each pair
        labels, numbers = array("b"), array("i")
        faults = Faults(self.files[0], need=NEED)
        rows = table_rows(self.files[0], format, faults, columns.of(self.files[0]))
        for number, left, right, sentence, label in parsed_rows(rows, faults, _row):
            self.names.append(left)
            self.names.append(right)
            self.sentences.append(sentence)
            labels.append(label)
            numbers.append(number)
        self.labels, self.numbers = np.array(labels), np.array(numbers)
        self._set_size(len(labels), limit)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        import torch

        place, sentence = self._place(index), self.sentences[index]
        if not sentence.strip():
            raise BadSample(place, "the sentence is empty")
        sentence = process(self.text_processor, sentence, place, "sentence", self.training)
        left, right = self._paths(index)
        if self.training and self.swap != "off" and rng.random() < 0.5:
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
            yield name, self._path(name)

    def texts(self, limit: int = 20_000) -> list[Text]:
        written = ((self._place(i), self.sentences[i]) for i in evenly(len(self), limit))
        return texts_of(written, self.text_processor)

    def problems(self, limit: int = 20_000) -> list[str]:
        chosen = evenly(len(self), limit)
        found = self._file_problems(sorted({path for index in chosen for path in self._paths(index)}))
        empty = [self._place(index) for index in chosen if not self.sentences[index].strip()]
        if empty:
            found.append(f"{len(empty)} empty sentences ({listed(empty)}). Fill or delete them.")
        used = self.labels[: len(self)]
        if self.training and len(set(used.tolist())) == 1:
            found.append(f"all {len(self)} labels are {bool(used[0])}: nothing can be learned from them.")
        return found

    def _place(self, index: int) -> str:
        return f"{self.files[0].name}:{self.numbers[index]}"

    def _paths(self, index: int) -> tuple[str, str]:
        return self._path(self.names[2 * index]), self._path(self.names[2 * index + 1])


def pair_columns(
    image_key: Key | list[Key] | None, sentence_key: Key | None, label_key: Key | None, pattern: str | None
) -> tuple[ColumnKeys, list[str]]:
    """Return the columns of a table of pairs, and what is wrong with the keys that the user set."""
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


def _row(number: int, fields: Fields) -> tuple[int, str, str, str, int] | str:
    """Return number, images, sentence and label of a row, or a sentence that says why it is not valid."""
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
    return number, images[0], images[1], valid_text(sentence), known
