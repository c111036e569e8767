"""The dataset ``visdial``: dialogs about images in the files of VisDial v1.0."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from vlkit.datasets.annotated import AnnotatedDataset
from vlkit.datasets.base import SPLITS, Sample, check_arguments
from vlkit.datasets.dialog_table import DialogTable, dialog_columns, read_relevance
from vlkit.datasets.faults import Faults
from vlkit.datasets.media import evenly
from vlkit.datasets.texts import Text, texts_of
from vlkit.registry import DATASETS
from vlkit.registry.bounds import FilledText, PositiveInt

# Possible paths of images below image_root: the training images are from two folders of COCO.
_PLACES = {
    "train": ("train2014/COCO_train2014_{:012d}.jpg", "val2014/COCO_val2014_{:012d}.jpg"),
    "val": ("VisualDialog_val2018/VisualDialog_val2018_{:012d}.jpg",),
    "test": ("VisualDialog_test2018/VisualDialog_test2018_{:012d}.jpg",),
}


@DATASETS.register("visdial")
class VisDial(AnnotatedDataset):
    """Dialogs with candidate answers.

    A sample holds ``image``, ``text_input`` (the caption), ``dialog`` (for each round ``question``, ``answer``,
    ``answer_options``, ``gt_index`` and ``gt_relevance``, each None if the files do not have it), ``image_id``
    (as in the file) and ``sample_id`` (``<annotation file>:<dialog>``). The test set has neither ``answer`` nor
    ``gt_index`` of the last round, and candidates for this round only.

    In your own files a dialog may hold ``image``, the name of a file below ``image_root``, with or without an
    ``image_id``.

    Args:
        path: annotation file (``visdial_1.0_train.json``).
        image_root: folder of the images with the file names of the split (``COCO_train2014_000000378466.jpg``,
            ``VisualDialog_val2018_...``), directly or in its subfolders (``train2014``, ``VisualDialog_val2018``);
            None: the folder of the annotation file. Names in dialogs are relative to it.
        split: "train", "val" or "test": the file names of images.
        dense_path: dense annotations of relevance (``visdial_1.0_val_dense_annotations.json``), for NDCG.
        image_key, caption_key, image_id_key: keys of image name, caption and id in dialogs; None: ``image``,
            ``caption``, ``image_id`` or a common other name.
        image_pattern: makes the file name of an image from the value of ``image_key``, or else ``image_id``:
            ``images/{}.jpg``.
        image_processor: called with (path, generator).
        text_processor: called with the caption, the questions and the answers.
        limit: number of dialogs to use, the first ones; None: all.

    Raises:
        ConfigError: an argument is wrong, or there is no image processor.
        DataError: the annotations cannot be read, or do not fit each other.
    """

    splits = SPLITS
    plain_images = True

    def __init__(
        self,
        path: FilledText,
        image_root: str | None = None,
        split: Literal["train", "val", "test"] = "train",
        dense_path: str | None = None,
        image_key: str | None = None,
        caption_key: str | None = None,
        image_id_key: str | None = None,
        image_pattern: str | None = None,
        image_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        if image_pattern is not None and image_key is None:
            image_key = image_id_key or "image_id"
        keys = {"image": image_key, "caption": caption_key, "image_id": image_id_key}
        columns = dialog_columns(keys, image_pattern)
        check_arguments("visdial", {"split": (split, SPLITS)}, limit, image_processor, others=columns.problems())
        super().__init__([path], image_root, split, image_processor, text_processor, [dense_path])
        self.table = DialogTable(self.files[0], columns)
        self._set_size(len(self.table), limit)
        self.dense_file = self.others[0]
        self.relevance = read_relevance(self.dense_file) if self.dense_file is not None else {}
        self._check_relevance()

    def image_path(self, index: int) -> str:
        """Return the image file of dialog ``index``: the named one, else the first possible path that exists."""
        name = self.table.names[index]
        if name:
            return self._path(name)
        number = int(self.table.image_ids[index])
        names = [place.format(number) for place in _PLACES[self.split]]
        paths = [self._path(name) for full in names for name in (full, os.path.basename(full))]
        return next((path for path in paths if os.path.isfile(path)), paths[0])

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        return {
            "image": self.image_processor(self.image_path(index), rng),
            "text_input": self._text(self.table.captions[index]),
            "dialog": [self._round(index, turn) for turn in self.table.rounds(index)],
            "image_id": int(self.table.image_ids[index]),
            "sample_id": self._place(index),
        }

    def images(self) -> Iterator[tuple[str | int, str]]:
        for index in range(len(self)):
            yield self.table.names[index] or int(self.table.image_ids[index]), self.image_path(index)

    def texts(self, limit: int = 20_000) -> list[Text]:
        table, found = self.table, list[tuple[str, str]]()
        for index in evenly(len(self), limit):
            questions = (table.questions[int(table.question[turn])] for turn in table.rounds(index))
            found += [(self._place(index), text) for text in (table.captions[index], *questions)]
        return texts_of(found, self.text_processor)

    def problems(self, limit: int = 20_000) -> list[str]:
        chosen, table = evenly(len(self), limit), self.table
        advice = f"They are looked for in image_root, which is {self.root}: set it (and split: {self.split} is given)."
        found = self._file_problems([self.image_path(index) for index in chosen], advice)
        ids, counts = np.unique(table.image_ids[: len(self)], return_counts=True)
        if (counts > 1).any():
            few = ", ".join(map(str, ids[counts > 1][:3]))
            found.append(
                f"{(counts > 1).sum()} image ids have several dialogs ({few}): results cannot tell them apart."
            )
        rounds = int(table.starts[len(self)])
        without = int((table.gt_index[:rounds] < 0).sum())
        if without and self.split != "test":
            found.append(f"{without} of {rounds} rounds have no 'gt_index': they are neither trained on nor scored.")
        strangers = {image for image, _ in self.relevance} - set(table.image_ids.tolist())
        if strangers and self.dense_file is not None:
            found.append(
                f"{self.dense_file.name} is about {len(strangers)} images without a dialog. Is it of this split?"
            )
        return found

    def _place(self, index: int) -> str:
        return f"{self.files[0].name}:{self.table.numbers[index]}"

    def _round(self, index: int, turn: int) -> dict[str, Any]:
        table = self.table
        answer, gt_index, options = int(table.answer[turn]), int(table.gt_index[turn]), table.candidates(turn)
        relevance = self.relevance.get(self._key(index, turn))
        return {
            "question": self._text(table.questions[int(table.question[turn])]),
            "answer": self._text(table.answers[answer]) if answer >= 0 else None,
            "answer_options": [self._text(text) for text in options] or None,
            "gt_index": gt_index if gt_index >= 0 else None,
            "gt_relevance": relevance.tolist() if relevance is not None else None,
        }

    def _key(self, index: int, turn: int) -> tuple[int, int]:
        return int(self.table.image_ids[index]), turn - int(self.table.starts[index]) + 1

    def _text(self, text: str) -> str:
        return text if self.text_processor is None else self.text_processor(text)

    def _check_relevance(self) -> None:
        if self.dense_file is None:
            return
        sizes = np.diff(self.table.option_starts)
        faults = Faults(self.dense_file, "image", "Each candidate of a round needs a value.")
        for index in range(len(self.table)):
            for turn in self.table.rounds(index):
                image, number = self._key(index, turn)
                given = self.relevance.get((image, number))
                if given is not None and len(given) != sizes[turn]:
                    del self.relevance[image, number]
                    faults.add(
                        image,
                        f"round {number} has {len(given)} values of relevance, and {sizes[turn]} candidates in "
                        f"{self.files[0].name}.",
                    )
        faults.raise_all()
