"""Questions about images and videos: rows of annotation files and of the VQA challenge's, kept in flat arrays."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlkit.datasets.annotation_files import good_rows, parsed_rows, table_rows
from vlkit.datasets.base import Sample
from vlkit.datasets.columns import ANSWER, IMAGE, QUESTION, QUESTION_ID, VIDEO, ColumnKeys, Fields, Key
from vlkit.datasets.faults import Faults, entry_fault, few, printable, short
from vlkit.datasets.texts import PackedStrings, RowOffsets, Source, Text, process, texts_of, valid_text
from vlkit.errors import BadSample, DataError
from vlkit.io.json import parse_rows
from vlkit.io.text import TextError, read_bytes, start_of

FORMATS = ("auto", "json", "jsonl", "csv", "official")
VG_WEIGHT = 0.2  # of an answer of Visual Genome, where all answers to a question of VQA together weigh 1
_OFFICIAL = (
    "An official question file holds 'questions' ({question_id, image_id, question}) and 'data_subtype', an annotation "
    "file 'annotations' ({question_id, answers})."
)


class QuestionRow(NamedTuple):
    """One question.

    Args:
        number: of the line (jsonl, csv), else of the entry in the list; from 1.
        name: of the image or video file, as written.
        question: as written.
        answers: as written, one per annotator; empty if the row has no answer.
        question_id: as written, or None.
        kind: of question ("yes/no"), or None.
        weight: of each answer; None: they share 1.
    """

    number: int
    name: str
    question: str
    answers: list[str]
    question_id: str | int | None = None
    kind: str | None = None
    weight: float | None = None


def question_columns(
    media: str, need_answers: bool, keys: Mapping[str, Key | None] | None = None, pattern: str | None = None
) -> ColumnKeys:
    """Return the columns of a table of questions.

    Args:
        media: "image" or "video".
        need_answers: whether each row needs an answer.
        keys: ``media``, "question", "answer" and "question_id" to the key that the user set.
        pattern: makes file names of the values of the column ``media``.
    """
    columns = [VIDEO if media == "video" else IMAGE, QUESTION, ANSWER, QUESTION_ID]
    needed = [media, "question", *(["answer"] if need_answers else [])]
    return ColumnKeys(columns, needed, keys or {}, pattern, (media,), f"{media}_pattern")


def read_questions(
    file: Path,
    format: str = "auto",
    media: str = "image",
    need_answers: bool = False,
    answers: Path | None = None,
    columns: ColumnKeys | None = None,
) -> Iterator[QuestionRow]:
    """Yield the rows of ``file`` in its order.

    Args:
        file: annotation file.
        format: one of ``FORMATS``; "auto": by extension and content.
        media: "image" or "video".
        need_answers: whether a row without an answer is a fault.
        answers: an official annotation file with the answers to the questions of an official file.
        columns: columns to read; None: those of :func:`question_columns`.

    Raises:
        DataError: the file cannot be read, or has no rows. Faults of single rows are reported together, after the last
            row.
    """
    known = "" if need_answers else ", where known,"
    need = (
        f"A row needs {media!r} (a file name), 'question' and{known} 'answer' (a text or a list of texts); "
        f"{media}_key, question_key and answer_key say what else they are called."
    )
    faults = Faults(file, need=need)
    found = (columns or question_columns(media, need_answers)).of(file)
    start = start_of(file) if format == "auto" else ""
    if format == "official" or (start[:1] == "{" and '"questions"' in start):
        found.own_format("the VQA challenge's")
        faults.need = _OFFICIAL
        given: Iterable[tuple[int, Fields]] = _official(file, answers, media, faults)
    else:
        given = table_rows(file, format, faults, found)
    return parsed_rows(given, faults, lambda number, fields: _row(number, fields, media, need_answers))


def _row(number: int, fields: Fields, media: str, need_answers: bool) -> QuestionRow | str:
    """Return a row, or a sentence that says why it is not valid."""
    name, question, answer = fields[media], fields["question"], fields.get("answer")
    if not isinstance(name, str) or not name.strip():
        advice = f" {media}_pattern makes names of numbers: {media}s/{{}}.ext." if type(name) is int else ""
        return f"{fields.shown(media)} is {short(name)}, not a file name.{advice}"
    if not isinstance(question, str):
        return f"{fields.shown('question')} is {short(question)}, not a text."
    # A question about an image is a sample; all those about a video are one, which a bad question must not spoil.
    if media == "video" and not question.strip():
        return f"{fields.shown('question')} is empty."
    answers = answer if isinstance(answer, list) else [answer] if answer not in (None, "") else []
    answers = [each.get("answer") if isinstance(each, dict) else each for each in answers]  # VizWiz
    if not all(isinstance(each, str) for each in answers):
        return f"{fields.shown('answer')} is {short(answer)}, neither a text nor a list of texts."
    if need_answers and not any(each.strip() or media == "image" for each in answers):
        return "it has no answer."
    question_id, kind = fields.get("question_id"), fields.get("kind", fields.get("answer_type"))
    question_id = None if question_id == "" else printable(question_id) if isinstance(question_id, str) else question_id
    if type(question_id) not in (int, str, type(None)):
        return f"{fields.shown('question_id')} is {short(question_id)}, neither a whole number nor a text."
    weight = VG_WEIGHT if fields.get("dataset") == "vg" else None
    kind = str(kind) if kind not in (None, "") else None
    return QuestionRow(number, name, valid_text(question), list(map(valid_text, answers)), question_id, kind, weight)


def _loaded(file: Path) -> dict[str, Any]:
    try:
        data = parse_rows(read_bytes(file), str(file))
    except TextError as error:
        raise DataError(f"{error} {_OFFICIAL}") from error
    return data if isinstance(data, dict) else {}


def _official(file: Path, answers: Path | None, media: str, faults: Faults) -> Iterator[tuple[int, Fields]]:
    """Yield the rows of official files with COCO's names of images."""
    data = _loaded(file)
    subtype = str(data.get("data_subtype", ""))
    if not isinstance(data.get("questions"), list) or not subtype:
        raise DataError(f"{file}: has no list 'questions' or no 'data_subtype'. {_OFFICIAL}")
    known = _official_answers(answers) if answers is not None else {}
    folder = "test2015" if subtype.startswith("test") else subtype  # test-dev2015 is a part of it
    for number, question in good_rows(data["questions"], faults):
        fault = _official_fault(question, ("question", "question_id", "image_id"))
        if fault:
            faults.add(number, fault)
            continue
        row = {key: question[key] for key in ("question", "question_id")}
        row[media] = f"{folder}/COCO_{folder}_{int(question['image_id']):012d}.jpg"
        yield number, Fields(row | known.get(question["question_id"], {}))


def _official_answers(file: Path) -> dict[Any, dict[str, Any]]:
    """Return answers and kind of each question by its id."""
    found = _loaded(file).get("annotations")
    if not isinstance(found, list):
        raise DataError(f"{file}: has no list 'annotations'. {_OFFICIAL}")
    faults, known = Faults(file, "annotations entry", _OFFICIAL), {}
    for number, entry in good_rows(found, faults):
        fault = _official_fault(entry, ("question_id",))
        answers = None if fault else entry.get("answers")
        if not fault and not (isinstance(answers, list) and all(isinstance(_answer_of(each), str) for each in answers)):
            fault = f"'answers' is {short(answers)}, not a list of mappings with an 'answer'."
        if fault:
            faults.add(number, fault)
        else:
            texts = [_answer_of(each) for each in entry["answers"]]
            known[entry["question_id"]] = {"answer": texts, "kind": entry.get("answer_type")}
    faults.raise_all()
    return known


def _answer_of(entry: Any) -> Any:
    return entry.get("answer") if isinstance(entry, dict) else None


def _official_fault(entry: Any, keys: tuple[str, ...]) -> str:
    """Return why an entry of an official file cannot be used, or ""."""
    fault = entry_fault(entry, keys)
    if fault:
        return fault
    if type(entry["question_id"]) not in (int, str):
        return f"'question_id' is {short(entry['question_id'])}, neither a whole number nor a text."
    number = str(entry.get("image_id", 0))
    if not (number.isascii() and number.isdigit() and len(number) <= 12):
        return f"'image_id' is {short(entry['image_id'])}, not the number of an image of COCO."
    return ""


def weigh_answers(answers: Sequence[str], weight: float | None = None) -> dict[str, float]:
    """Map the different answers, in the order of first occurrence, to their share of all; or to ``weight``."""
    share = 1 / max(len(answers), 1) if weight is None else weight
    counts = {answer: answers.count(answer) if weight is None else 1 for answer in answers}
    return {answer: count * share for answer, count in counts.items()}


class QuestionTable:
    """Questions in the order of the rows.

    Args:
        sources: files of :class:`QuestionRow`, read one after the other.

    Attributes:
        names: of the images or videos, without duplicates.
        name_of: int32 [questions], the image or video of each.
    """

    def __init__(self, sources: Iterable[Source]):
        self.names, self._questions, self._details = PackedStrings(), PackedStrings(), PackedStrings()
        self._places, self._files = RowOffsets(), list[str]()
        self._has_kinds = False
        numbers, name_of = dict[str, int](), array("i")
        for source in sources:
            for row in source.rows:
                name = os.path.join(source.folder, row.name) if source.folder else row.name
                number = numbers.setdefault(name, len(self.names))
                if number == len(self.names):
                    self.names.append(name)
                name_of.append(number)
                self._places.add(len(self._files), row.number)
                self._questions.append(row.question)
                self._details.append(json.dumps([row.answers, row.weight, row.question_id, row.kind]))
                self._has_kinds |= row.kind is not None
            self._files.append(source.name)
        self.name_of = np.array(name_of, np.int32)

    def __len__(self) -> int:
        return len(self._questions)

    def name(self, index: int) -> str:
        """Return the image or video of a question."""
        return self.names[int(self.name_of[index])]

    def question(self, index: int) -> str:
        """Return a question as written."""
        return self._questions[index]

    def answers(self, index: int) -> list[str]:
        """Return the answers of all annotators as written."""
        return json.loads(self._details[index])[0]

    def question_id(self, index: int) -> str | int | None:
        """Return the id as written, or None."""
        return json.loads(self._details[index])[2]

    def place(self, index: int) -> str:
        """Return ``file:row`` of a question."""
        return self._places.show(index, self._files)

    def sample(self, index: int, training: bool, text_processor: Any = None) -> Sample:
        """Return a sample without its image or video.

        Args:
            index: of the question.
            training: whether an answer is needed, and the answers of single annotators are left out.
            text_processor: called with the question.

        Returns:
            ``text_input``, ``answers`` (different ones), ``weights``, ``question_id``, ``sample_id``, ``image_id``;
            ``kind`` if rows have it, and ``references`` (the answer of each annotator) outside of training.

        Raises:
            BadSample: the question is empty, or in training there is no answer, or the processor leaves nothing of the
                question.
        """
        place, question = self.place(index), self._questions[index]
        answers, weight, question_id, kind = json.loads(self._details[index])
        if not question.strip():
            raise BadSample(place, "the question is empty")
        weights = weigh_answers([answer for answer in answers if answer.strip()], weight)
        if training and not weights:
            raise BadSample(place, "the question has no answer")
        sample: Sample = {
            "text_input": process(text_processor, question, place, "question", training),
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
        """Return some questions and their answers with their positions."""
        asked = texts_of(((self.place(i), self._questions[i]) for i in indices), text_processor)
        return asked + texts_of(((self.place(i), answer) for i in indices for answer in self.answers(i)), None)

    def problems(self, indices: Sequence[int], training: bool) -> list[str]:
        """Return a sentence about questions that are empty, one about those without an answer, or with equal ids."""
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
