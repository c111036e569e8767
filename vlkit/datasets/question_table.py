"""Questions, their answers and the files they are about in a few flat arrays."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlkit.datasets.annotations import few
from vlkit.datasets.base import Sample
from vlkit.datasets.image_ids import printable
from vlkit.datasets.question_rows import QuestionRow
from vlkit.datasets.string_table import PackedStrings
from vlkit.datasets.texts import Text, process, texts_of
from vlkit.errors import BadSample


class QuestionSource(NamedTuple):
    """One annotation file.

    Args:
        name: what sample ids call it.
        folder: put in front of its file names; may be empty.
        rows: its rows.
    """

    name: str
    folder: str
    rows: Iterable[QuestionRow]


def weigh_answers(answers: Sequence[str], weight: float | None = None) -> dict[str, float]:
    """Different answers in the order of the first of each, with their share of all; or with ``weight`` each."""
    share = 1 / max(len(answers), 1) if weight is None else weight
    counts = {answer: answers.count(answer) if weight is None else 1 for answer in answers}
    return {answer: count * share for answer, count in counts.items()}


class QuestionTable:
    """Questions in the order of the rows.

    Args:
        sources: read one after the other.

    Attributes:
        names: of the images or videos, each once.
        name_of: int32 [questions], the image or video that each is about.
    """

    def __init__(self, sources: Iterable[QuestionSource]):
        self.names = PackedStrings()
        self._questions, self._details = PackedStrings(), PackedStrings()
        self._files: list[str] = []
        self._has_kinds = False
        numbers = dict[str, int]()
        name_of, files, rows = array("i"), array("i"), array("i")
        for source in sources:
            for row in source.rows:
                name = os.path.join(source.folder, row.name)
                number = numbers.setdefault(name, len(self.names))
                if number == len(self.names):
                    self.names.append(name)
                name_of.append(number)
                files.append(len(self._files))
                rows.append(row.number)
                self._questions.append(row.question)
                self._details.append(json.dumps([row.answers, row.weight, row.question_id, row.kind]))
                self._has_kinds |= row.kind is not None
            self._files.append(source.name)
        self.name_of = np.array(name_of, np.int32)
        self._file_of, self._row_of = np.array(files, np.int32), np.array(rows, np.int32)

    def __len__(self) -> int:
        return len(self._questions)

    def name(self, index: int) -> str:
        """The image or video of a question."""
        return self.names[int(self.name_of[index])]

    def question(self, index: int) -> str:
        """As written."""
        return self._questions[index]

    def answers(self, index: int) -> list[str]:
        """Of all people, as written."""
        return json.loads(self._details[index])[0]

    def question_id(self, index: int) -> str | int | None:
        """As written, or None."""
        return json.loads(self._details[index])[2]

    def place(self, index: int) -> str:
        """``file:row`` of a question."""
        return f"{self._files[self._file_of[index]]}:{self._row_of[index]}"

    def sample(self, index: int, training: bool, text_processor: Any = None) -> Sample:
        """Everything of a sample but the image or video itself.

        Args:
            index: of the question.
            training: whether a question without an answer is no use, and people's single answers are left out.
            text_processor: called with the question.

        Returns:
            ``text_input``, ``answers`` (different ones), ``weights``, ``question_id``, ``sample_id``, ``image_id``;
            ``kind`` where rows have it, and ``references`` (each person's answer) outside of training.

        Raises:
            BadSample: the question is empty, or there is nothing to train on: no answer, or the processor leaves
                nothing of the question.
        """
        place, question = self.place(index), self._questions[index]
        answers, weight, question_id, kind = json.loads(self._details[index])
        if not question.strip():
            raise BadSample(place, "the question is empty")
        weights = weigh_answers([answer for answer in answers if answer.strip()], weight)
        if training and not weights:
            raise BadSample(place, "the question has no answer")
        if training:
            processed = process(text_processor, question, place, "question")
        else:
            processed = question if text_processor is None else text_processor(question)
        sample: Sample = {
            "text_input": processed,
            "answers": list(weights),
            "weights": list(weights.values()),
            "question_id": place if question_id is None else question_id,
            "sample_id": place,
            "image_id": printable(self.name(index)),
        }
        if not training:
            sample["references"] = answers
        if self._has_kinds:
            sample["kind"] = kind or "other"
        return sample

    def texts(self, indices: Sequence[int], text_processor: Any = None) -> list[Text]:
        """Some questions and their answers, with where each is written."""
        asked = texts_of(((self.place(i), self._questions[i]) for i in indices), text_processor)
        return asked + texts_of(((self.place(i), answer) for i in indices for answer in self.answers(i)), None)

    def problems(self, indices: Sequence[int], training: bool) -> list[str]:
        """Questions that are empty, have no answer, or share an id; one sentence a sort."""
        empty = [self.place(i) for i in indices if not self._questions[i].strip()]
        advice = "Fill or delete it." if len(empty) == 1 else "Fill or delete them."
        found = [f"{few('question', empty)} empty. {advice}"] if empty else []
        if training:
            blank = [self.place(i) for i in indices if not any(answer.strip() for answer in self.answers(i))]
            return found + ([f"{few('question', blank)} without an answer, so not trained on."] if blank else [])
        seen = dict[str | int, int]()
        twice = []
        for i in indices:
            identity = self.question_id(i)
            if identity is not None and seen.setdefault(identity, i) != i:
                twice.append(f"{self.place(i)} and {self.place(seen[identity])}")
        if twice:
            found.append(f"{few('question', twice)} with the id of an earlier one: servers refuse such results.")
        return found
