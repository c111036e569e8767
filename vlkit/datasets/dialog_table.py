"""Dialogs of VisDial v1.0 in flat arrays, which worker processes share."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlkit.datasets.annotation_files import good_rows
from vlkit.datasets.columns import CAPTION, IMAGE, IMAGE_ID, ColumnKeys, Fields, Key
from vlkit.datasets.faults import LARGEST, Faults, lacks, short
from vlkit.datasets.string_table import PackedStrings
from vlkit.errors import DataError
from vlkit.io.json_reader import BadRow, number_fault_in, parse_rows
from vlkit.io.text_encoding import TextError
from vlkit.io.text_files import read_bytes

NEED = (
    "A dialog needs 'image_id' (or 'image', a file name), 'caption' and 'dialog': a list of rounds with 'question', "
    "'answer', 'answer_options' and 'gt_index', which are places in the lists 'questions' and 'answers' (in "
    "'answer_options'), counted from 0."
)
UNKNOWN = -1
_MOST = 2**31 - 1
_PACKED = object()  # in place of a whole dialog


class DialogTable:
    """The dialogs of an annotation file.

    While the file is read, each round's candidates go to a flat array at once: as Python lists, those of the training
    set (1.2 million rounds, 100 candidates each) would take gigabytes.

    Args:
        file: ``{"data": {"questions": [str], "answers": [str], "dialogs": [...]}}``.
        columns: of the dialogs; None: those of :func:`dialog_columns`.

    Attributes:
        questions, answers: all different texts.
        captions: [N] of the dialogs.
        names: [N] of the image files, as written; "" where a dialog has an ``image_id`` alone.
        numbers: int32 [N], the place of each dialog in the file, from 1.
        image_ids: int64 [N]; where a dialog has none, how many dialogs there are up to it.
        starts: int64 [N + 1], the first round of each dialog.
        question, answer: int32 [R], places in ``questions`` and ``answers``; ``UNKNOWN`` where there is none.
        gt_index: int32 [R], the answer's place among the candidates, or ``UNKNOWN``.
        option_starts: int64 [R + 1], the first candidate of each round.
        options: int32, places in ``answers``.

    Raises:
        DataError: the file cannot be read, or is of another format.
    """

    def __init__(self, file: Path, columns: ColumnKeys | None = None):
        self.file, self.captions, self.names = file, PackedStrings(), PackedStrings()
        self._columns = (columns or dialog_columns()).of(file)
        self._faults, self._bad = Faults(file, "dialog", NEED), dict[int, str]()
        self._unread: dict[str, dict[int, str]] = {}  # places in the lists of texts, and why there is none
        self._seen, self._numbers = 0, array("i")
        self._ids, self._starts, self._option_starts = array("q"), array("q", [0]), array("q", [0])
        self._question, self._answer, self._gt, self._options = array("i"), array("i"), array("i"), array("i")
        data = self._read()
        self.questions, self.answers = (self._texts(data, name) for name in ("questions", "answers"))
        self._check_dialogs(data)
        # Without a copy: the arrays stay the owners of their memory.
        self.numbers, self.image_ids, self.starts = map(np.asarray, (self._numbers, self._ids, self._starts))
        self.question, self.answer, self.gt_index = map(np.asarray, (self._question, self._answer, self._gt))
        self.option_starts, self.options = np.asarray(self._option_starts), np.asarray(self._options)
        del self._numbers, self._ids, self._starts, self._option_starts
        del self._question, self._answer, self._gt, self._options
        self._check_places()
        for number, fault in sorted(self._bad.items()):
            self._faults.add(number, fault)
        self._faults.raise_all()
        self._drop(set(self._bad))
        if not self._seen:
            raise DataError(f"{file}: holds no dialogs. {NEED}")

    def __len__(self) -> int:
        return len(self.captions)

    def rounds(self, index: int) -> range:
        """The rounds of dialog ``index``, as places in the arrays."""
        return range(int(self.starts[index]), int(self.starts[index + 1]))

    def candidates(self, turn: int) -> list[str]:
        """The candidate answers of round ``turn``."""
        own = self.options[self.option_starts[turn] : self.option_starts[turn + 1]]
        return [self.answers[i] for i in own.tolist()]

    def _read(self) -> Mapping[str, Any]:
        try:
            content = parse_rows(read_bytes(self.file), str(self.file), object_hook=self._take)
        except TextError as error:
            raise DataError(f"{error} {NEED}") from error
        if not isinstance(content, Mapping) or not isinstance(content.get("data"), Mapping):
            what = lacks("data", content) if isinstance(content, Mapping) else f"the top level is {short(content)}."
            raise DataError(f"{self.file}: {what} This is not a file of VisDial v1.0. {NEED}")
        return content["data"]

    def _take(self, fields: dict[str, Any]) -> Any:
        """Called with each mapping, inner ones first: packs candidates, and whole dialogs, which then vanish."""
        if "answer_options" in fields:
            with contextlib.suppress(TypeError, OverflowError):  # reported with its dialog
                fields["answer_options"] = array("i", fields["answer_options"])
        if "dialog" not in fields:
            return fields
        row = self._columns.fields(fields)
        fault = row if isinstance(row, str) else _dialog_fault(row)
        if fault:
            return _Faulty(number_fault_in(fields) or fault)
        fields = row  # type: ignore[assignment]
        self.names.append(_text(fields.get("image", "")))
        self._ids.append(fields.get("image_id", len(self._ids) + 1))
        self.captions.append(_text(fields["caption"]))
        for turn in fields["dialog"]:
            self._question.append(turn["question"])
            self._answer.append(turn.get("answer", UNKNOWN))
            self._gt.append(turn.get("gt_index", UNKNOWN))
            self._options.extend(turn.get("answer_options", ()))
            self._option_starts.append(len(self._options))
        self._starts.append(len(self._question))
        return _PACKED

    def _texts(self, data: Mapping[str, Any], name: str) -> PackedStrings:
        texts = data.get(name)
        if not isinstance(texts, list):
            raise DataError(f"{self.file}: {name!r} under 'data' is {short(texts)}; a list of texts is needed. {NEED}")
        unread = self._unread[name] = {
            place: text.reason if isinstance(text, BadRow) else f"it is {short(text)}"
            for place, text in enumerate(texts)
            if not isinstance(text, str)
        }
        return PackedStrings(_text("" if place in unread else text) for place, text in enumerate(texts))

    def _check_dialogs(self, data: Mapping[str, Any]) -> None:
        if not isinstance(data.get("dialogs"), list):
            raise DataError(f"{self.file}: 'dialogs' under 'data' is {short(data.get('dialogs'))}, not a list. {NEED}")
        for number, left in enumerate(data["dialogs"], 1):
            if left is _PACKED:
                self._numbers.append(number)
            elif isinstance(left, (_Faulty, BadRow)):
                self._bad[number] = left.reason
            else:
                self._bad[number] = (
                    lacks("dialog", left) if isinstance(left, Mapping) else f"{short(left)} is not a mapping."
                )
        self._seen = len(data["dialogs"])
        self._columns.finish()
        if len(self._numbers) != len(self._ids):
            raise DataError(f"{self.file}: there are dialogs in other places than the list 'dialogs'. {NEED}")

    def _check_places(self) -> None:
        sizes = np.diff(self.option_starts)
        for what, values, low, limit, name in (
            ("question", self.question, 0, len(self.questions), "questions"),
            ("answer", self.answer, UNKNOWN, len(self.answers), "answers"),
            ("answer_options", self.options, 0, len(self.answers), "answers"),
            ("gt_index", self.gt_index, UNKNOWN, sizes, ""),
        ):
            unread = self._unread.get(name, {})
            wrong = (values < low) | (values >= limit)
            for at in np.flatnonzero(wrong | np.isin(values, list(unread)) if unread else wrong).tolist():
                turn = _last_start(self.option_starts, at) if what == "answer_options" else at
                dialog = _last_start(self.starts, turn)
                said = f"0 to {int(np.broadcast_to(limit, values.shape)[at]) - 1} is there."
                if not wrong[at]:
                    said = f"that entry of {name!r} is no text: {unread[int(values[at])]}."
                number = turn - int(self.starts[dialog]) + 1
                self._bad.setdefault(int(self.numbers[dialog]), f"{what!r} of round {number} is {values[at]}; {said}")

    def _drop(self, numbers: set[int]) -> None:
        """Leave out the dialogs with these numbers."""
        kept = np.array([number not in numbers for number in self.numbers.tolist()], bool)
        if kept.all():
            return
        rounds = np.repeat(kept, np.diff(self.starts))
        options = np.repeat(rounds, np.diff(self.option_starts))
        self.captions, self.names = (
            PackedStrings(texts[int(index)] for index in np.flatnonzero(kept)) for texts in (self.captions, self.names)
        )
        self.starts = np.concatenate([[0], np.cumsum(np.diff(self.starts)[kept])])
        self.option_starts = np.concatenate([[0], np.cumsum(np.diff(self.option_starts)[rounds])])
        self.numbers, self.image_ids = self.numbers[kept], self.image_ids[kept]
        self.question, self.answer, self.gt_index = (
            each[rounds] for each in (self.question, self.answer, self.gt_index)
        )
        self.options = self.options[options]


class _Faulty:
    """A dialog that cannot be used, and why."""

    def __init__(self, reason: str):
        self.reason = reason


def _last_start(starts: np.ndarray, place: int) -> int:
    """Which of consecutive pieces with these ``starts`` holds ``place``."""
    return int(np.searchsorted(starts, place, "right")) - 1


def dialog_columns(keys: Mapping[str, Key | None] | None = None, pattern: str | None = None) -> ColumnKeys:
    """The columns of a dialog but ``dialog`` itself.

    Args:
        keys: "image", "caption" and "image_id" to what the user set.
        pattern: makes file names of the values of the column of the image.
    """
    return ColumnKeys([IMAGE, CAPTION, IMAGE_ID], ["caption"], keys or {}, pattern)


def _dialog_fault(fields: Fields) -> str:
    """Why ``fields`` is not a dialog, or ""."""
    if "image" not in fields and "image_id" not in fields:
        return lacks("image_id", fields)
    image = fields.get("image", "x")
    if not isinstance(image, str) or not image.strip():
        return f"{fields.shown('image')} is {short(image)}, not a file name."
    if type(fields.get("image_id", 0)) is not int or not isinstance(fields["caption"], str):
        return (
            f"image_id {short(fields.get('image_id'))} and caption {short(fields['caption'])}: a number and a text "
            "needed."
        )
    if not 0 <= fields.get("image_id", 0) <= LARGEST:
        return f"'image_id' is {short(fields['image_id'])}; a whole number from 0 to {LARGEST} is needed."
    rounds = fields["dialog"]
    if not isinstance(rounds, list) or not rounds:
        return f"'dialog' is {short(rounds)}, not a list of rounds."
    for number, turn in enumerate(rounds, 1):
        if not isinstance(turn, Mapping) or "question" not in turn:
            return f"round {number} is {short(turn)}, not a mapping with a 'question'."
        for key in ("question", "answer", "gt_index"):
            if type(turn.get(key, 0)) is not int or abs(turn.get(key, 0)) > _MOST:
                return f"{key!r} of round {number} is {short(turn[key])}, not a place in a list."
        if not isinstance(turn.get("answer_options", array("i")), array):
            return f"'answer_options' of round {number} is {short(turn['answer_options'])}, not a list of places."
    return ""


def _text(text: str) -> str:
    # Half of a surrogate pair, as cut-off emoji leave it in JSON, is no text: tokenizers fail on it.
    return text.encode("utf-8", "replace").decode()


def read_relevance(file: Path) -> dict[tuple[int, int], np.ndarray]:
    """Dense annotations: (image id, round from 1) to the relevance of each candidate, float32.

    Args:
        file: ``[{"image_id": int, "round_id": int, "gt_relevance": [float]}]``; the training file says ``relevance``.

    Raises:
        DataError: the file cannot be read, or is of another format.
    """
    need = "A row needs 'image_id', 'round_id' (from 1) and 'gt_relevance' (a list of numbers from 0 to 1)."
    try:
        rows = parse_rows(read_bytes(file), str(file))
    except TextError as error:
        raise DataError(f"{error} {need}") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: the top level is {short(rows)}; a list of rows is needed. {need}")
    faults, found = Faults(file, need=need), {}
    for number, row in good_rows(rows, faults):
        fault = _relevance_fault(row)
        if fault:
            faults.add(number, fault)
        else:
            found[row["image_id"], row["round_id"]] = np.asarray(_relevance(row), np.float32)
    faults.raise_all()
    return found


def _relevance(row: Mapping[str, Any]) -> Sequence[float]:
    return row["gt_relevance"] if "gt_relevance" in row else row.get("relevance")  # type: ignore[return-value]


def _relevance_fault(row: Any) -> str:
    if not isinstance(row, Mapping):
        return f"{short(row)} is not a mapping."
    for key in ("image_id", "round_id"):
        if type(row.get(key)) is not int:
            return f"{key!r} is {short(row.get(key))}, not a number."
    values = _relevance(row)
    numbers = isinstance(values, list) and all(type(v) in (int, float) and 0 <= v <= 1 for v in values)
    return "" if numbers else f"'gt_relevance' is {short(values)}, not a list of numbers from 0 to 1."
