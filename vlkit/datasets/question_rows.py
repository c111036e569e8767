"""Reads annotation files of questions: rows in JSON, JSON lines or CSV, and the official files of VQA v2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlkit.datasets.annotation_formats import Faults, good_rows, table_rows
from vlkit.datasets.column_names import ANSWER, IMAGE, QUESTION, QUESTION_ID, VIDEO, Fields, Key
from vlkit.datasets.columns import ColumnKeys
from vlkit.datasets.faults import lacks, short
from vlkit.datasets.image_ids import printable
from vlkit.errors import DataError
from vlkit.io.json_reader import parse_rows
from vlkit.io.text_encoding import TextError
from vlkit.io.text_files import read_bytes, start_of

FORMATS = ("auto", "json", "jsonl", "csv", "official")
VG_WEIGHT = 0.2  # of an answer of Visual Genome, against 1 for all people of a question of VQA
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
        answers: as written, each person's; none where the row has no answer.
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
    """The columns of a table of questions.

    Args:
        media: "image" or "video": what the questions are about.
        need_answers: whether each row needs an answer.
        keys: ``media``, "question", "answer" and "question_id" to what the user set.
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
    """The rows of ``file``, in its order.

    Args:
        format: one of ``FORMATS``; "auto" goes by the extension and the content.
        media: key of the file name in a row: "image" or "video".
        need_answers: a row without an answer is a fault.
        answers: an official annotation file with the answers to the questions of an official file.
        columns: which columns to read; None: those of :func:`question_columns`.

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
    if format == "official" or (format == "auto" and _looks_official(file)):
        found.own_format("the VQA challenge's")
        faults.need = _OFFICIAL
        given: Iterable[tuple[int, Fields]] = _official(file, answers, media, faults)
    else:
        given = table_rows(file, format, faults, found)
    empty = True
    for number, fields in given:
        empty = False
        row = _row(number, fields, media, need_answers)
        if isinstance(row, str):
            faults.add(number, row)
        else:
            yield row
    faults.raise_where_empty(empty)


def _row(number: int, fields: Fields, media: str, need_answers: bool) -> QuestionRow | str:
    """A row, or a sentence that says why there is none."""
    name, question, answer = fields[media], fields["question"], fields.get("answer")
    if not isinstance(name, str) or not name.strip():
        advice = f" {media}_pattern makes names of numbers: {media}s/{{}}.ext." if type(name) is int else ""
        return f"{fields.shown(media)} is {short(name)}, not a file name.{advice}"
    if not isinstance(question, str):
        return f"{fields.shown('question')} is {short(question)}, not a text."
    # A question about an image is a sample; those about a video are one, which a bad one must not spoil.
    if media == "video" and not question.strip():
        return f"{fields.shown('question')} is empty."
    answers = answer if isinstance(answer, list) else [answer] if answer not in (None, "") else []
    answers = [each.get("answer") if isinstance(each, Mapping) else each for each in answers]  # VizWiz
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
    return QuestionRow(number, name, _text(question), [_text(each) for each in answers], question_id, kind, weight)


def _text(text: str) -> str:
    """Half of a surrogate pair, as cut-off emoji leave it in JSON, is no text: tokenizers fail on it."""
    return text.encode("utf-8", "replace").decode()


def _looks_official(file: Path) -> bool:
    """Whether a file begins as the official ones do: a mapping that comes to its questions soon."""
    start = start_of(file)
    return start[:1] == "{" and '"questions"' in start


def _loaded(file: Path) -> dict[str, Any]:
    try:
        data = parse_rows(read_bytes(file), str(file))
    except TextError as error:
        raise DataError(f"{error} {_OFFICIAL}") from error
    return data if isinstance(data, dict) else {}


def _official(file: Path, answers: Path | None, media: str, faults: Faults) -> Iterator[tuple[int, Fields]]:
    """Rows of official files, images named as COCO names them."""
    data = _loaded(file)
    subtype = str(data.get("data_subtype", ""))
    if not isinstance(data.get("questions"), list) or not subtype:
        raise DataError(f"{file}: has no list 'questions' or no 'data_subtype'. {_OFFICIAL}")
    known = _official_answers(answers) if answers is not None else {}
    folder = "test2015" if subtype.startswith("test") else subtype  # test-dev2015 is a part of it
    for number, question in good_rows(data["questions"], faults):
        fault = _keys_fault(question, ("question", "question_id", "image_id"))
        if fault:
            faults.add(number, fault)
            continue
        row = {key: question[key] for key in ("question", "question_id")}
        row[media] = f"{folder}/COCO_{folder}_{int(question['image_id']):012d}.jpg"
        people = known.get(question["question_id"])
        yield number, Fields(row if people is None else row | people)


def _official_answers(file: Path) -> dict[Any, dict[str, Any]]:
    """Answers and kind of each question, by its id."""
    found = _loaded(file).get("annotations")
    if not isinstance(found, list):
        raise DataError(f"{file}: has no list 'annotations'. {_OFFICIAL}")
    faults, known = Faults(file, "annotations entry", _OFFICIAL), {}
    for number, entry in good_rows(found, faults):
        fault = _keys_fault(entry, ("question_id",))
        answers = entry.get("answers") if isinstance(entry, Mapping) else None
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
    return entry.get("answer") if isinstance(entry, Mapping) else None


def _keys_fault(entry: Any, keys: tuple[str, ...]) -> str:
    """Why an entry of an official file is of no use, or ""."""
    if not isinstance(entry, Mapping):
        return f"{short(entry)} is not a mapping."
    for key in keys:
        if key not in entry:
            return lacks(key, entry)
        if key == "question_id" and type(entry[key]) not in (int, str):
            return f"{key!r} is {short(entry[key])}, neither a whole number nor a text."
    number = str(entry.get("image_id", 0))
    if not (number.isascii() and number.isdigit() and len(number) <= 12):
        return f"'image_id' is {short(entry['image_id'])}, not the number of an image of COCO."
    return ""
