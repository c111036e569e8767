"""The dataset ``image_question``: questions about image files, with answers from an annotation file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from vlkit.datasets.annotated import AnnotatedDataset, as_paths
from vlkit.datasets.base import SPLITS, Sample, check_arguments
from vlkit.datasets.columns import Key
from vlkit.datasets.media import evenly
from vlkit.datasets.question_table import FORMATS, QuestionTable, question_columns, read_questions
from vlkit.datasets.texts import Text, read_answer_list
from vlkit.registry import DATASETS
from vlkit.registry.bounds import Column, FilledText, PositiveInt


@DATASETS.register("image_question")
class ImageQuestion(AnnotatedDataset):
    """Questions about images: your own files, VQA v2's or Visual Genome's.

    A row is ``{"image": "a.jpg", "question": "text", "answer": "text"}``; the answer may be a list, one per
    annotator, or missing outside of training. ``question_id`` and ``kind`` (of question) may be given; with
    ``"dataset": "vg"`` each answer weighs 0.2, otherwise an answer weighs its share of the list. Rows are in a JSON
    list, in JSON lines, or in a CSV file with a header. Common other names of columns are found. The
    question files of the VQA challenge (``v2_OpenEnded_...``) can be read, with their annotation file in ``answers``.

    A sample holds ``image``, ``text_input`` (the question), ``answers`` (different ones), ``weights``, ``question_id``,
    ``image_id`` (the name of the image), ``sample_id`` (``<annotation file>:<row>``), ``kind`` if rows have it and,
    outside of split "train", ``references`` (the answer of each annotator).

    Args:
        path: annotation file, or several.
        image_root: folder that names of images are relative to; None: that of the annotation file.
        split: "train", "val" or "test": how samples are made. It does not select rows.
        format: of the annotation files; "auto": by extension and content.
        image_key, question_key, answer_key, question_id_key: names of the columns; None: ``image``, ``question``,
            ``answer``, ``question_id`` or a common other name. Positions from 0 on for rows that are lists, and for CSV
            files without a header.
        image_pattern: makes the file name of an image from the value of its column: ``images/{}.png``.
        answers: official annotation file, for an official question file.
        answer_list: file of the candidate answers of a model: a JSON list, or one per line.
        image_processor: called with (path, generator).
        text_processor: called with the question.
        limit: number of samples to use, the first ones; None: all.

    Raises:
        ConfigError: an argument is wrong, or there is no image processor.
        DataError: the annotations cannot be read, or have no answers to train on.
    """

    plain_images = True

    def __init__(
        self,
        path: FilledText | list[FilledText],
        image_root: str | None = None,
        split: Literal["train", "val", "test"] = "train",
        format: Literal["auto", "json", "jsonl", "csv", "official"] = "auto",
        image_key: str | Column | None = None,
        question_key: str | Column | None = None,
        answer_key: str | Column | None = None,
        question_id_key: str | Column | None = None,
        image_pattern: str | None = None,
        answers: str | None = None,
        answer_list: str | None = None,
        image_processor: Any = None,
        text_processor: Any = None,
        limit: PositiveInt | None = None,
    ):
        keys: dict[str, Key | None] = {"image": image_key, "question": question_key, "answer": answer_key}
        columns = question_columns("image", split == "train", {**keys, "question_id": question_id_key}, image_pattern)
        others = columns.problems()
        if answers is not None and format not in ("auto", "official"):
            others.insert(
                0, f"answers: is for official question files, and format is {format!r}. Leave one of them out."
            )
        paths, choices = as_paths(path), {"split": (split, SPLITS), "format": (format, FORMATS)}
        check_arguments("image_question", choices, limit, image_processor, paths, others)
        super().__init__(paths, image_root, split, image_processor, text_processor, [answers])
        self.answer_list = read_answer_list(answer_list) if answer_list is not None else None
        rows = [read_questions(file, format, "image", self.training, self.others[0], columns) for file in self.files]
        self.table = QuestionTable(self._sources(rows))
        self._set_size(len(self.table), limit)

    def image_path(self, index: int) -> str:
        """Return the image file of sample ``index``."""
        return self._path(self.table.name(index))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        sample = self.table.sample(index, self.training, self.text_processor)
        return {"image": self.image_processor(self.image_path(index), rng), **sample}

    def images(self) -> Iterator[tuple[str | int, str]]:
        for number in np.unique(self.table.name_of[: len(self)]).tolist():
            yield self.table.names[number], self._path(self.table.names[number])

    def texts(self, limit: int = 20_000) -> list[Text]:
        return self.table.texts(evenly(len(self), limit), self.text_processor)

    def problems(self, limit: int = 20_000) -> list[str]:
        chosen = evenly(len(self), limit)
        paths = sorted({self.image_path(index) for index in chosen})
        found = self._file_problems(paths) + self.table.problems(chosen, self.training)
        if self.answer_list is not None:
            known = set(self.answer_list)
            answered = [answers for index in chosen if (answers := self.table.answers(index))]
            if answered and not any(known.intersection(answers) for answers in answered):
                found.append(
                    f"none of the {len(answered)} questions checked has an answer that is in answer_list: it seems "
                    f"to be another dataset's."
                )
        return found
