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
from vlkit.datasets.faults import LARGEST, Faults, entry_fault, lacks, short
from vlkit.datasets.texts import PackedStrings, valid_text
from vlkit.errors import DataError
from vlkit.io.json import BadRow, number_fault_in, parse_rows
from vlkit.io.text import TextError, read_bytes

NEED = (
    "A dialog needs 'image_id' (or 'image', a file name), 'caption' and 'dialog': a list of rounds with 'question', "
    "'answer', 'answer_options' and 'gt_index', which are places in the lists 'questions' and 'answers' (in "
    "'answer_options'), counted from 0."
)
UNKNOWN = -1
_MOST = 2**31 - 1
_PACKED = object()  # replaces a dialog that is in the arrays
_ARRAYS = ("numbers", "image_ids", "starts", "question", "answer", "gt_index", "option_starts", "options")


class DialogTable:
    """The dialogs of an annotation file.

    While the file is read, each dialog moves to flat arrays at once: as Python lists, the candidates of the training
    set (1.2 million rounds with 100 each) would take gigabytes.

    Args:
        file: ``{"data": {"questions": [str], "answers": [str], "dialogs": [...]}}``.
        columns: of the dialogs; None: those of :func:`dialog_columns`.

    Attributes:
        questions, answers: all different texts.
        captions: [N] of the dialogs.
        names: [N] of the image files, as written; "" for a dialog with an ``image_id`` only.
        numbers: int32 [N], the position of each dialog in the file, from 1.
        image_ids: int64 [N]; for a dialog without one, the number of dialogs up to it.
        starts: int64 [N + 1], the first round of each dialog.
        question, answer: int32 [R], positions in ``questions`` and ``answers``, or ``UNKNOWN``.
        gt_index: int32 [R], the answer's position among the candidates, or ``UNKNOWN``.
        option_starts: int64 [R + 1], the first candidate of each round.
        options: int32, positions in ``answers``.

    Raises:
        DataError: the file cannot be read, or is of another format.
    """

    def __init__(self, file: Path, columns: ColumnKeys | None = None):
        self.file, self.captions, self.names = file, PackedStrings(), PackedStrings()
        self._columns = (columns or dialog_columns()).of(file)
        self._bad = dict[int, str]()
        self._unread: dict[str, dict[int, str]] = {}  # positions in the lists of texts, and why there is none
        self.numbers: Any = array("i")
        self.image_ids: Any = array("q")
        self.starts: Any = array("q", [0])
        self.question: Any = array("i")
        self.answer: Any = array("i")
        self.gt_index: Any = array("i")
        self.option_starts: Any = array("q", [0])
        self.options: Any = array("i")
        data = self._read()
        self.questions, self.answers = (self._texts(data, name) for name in ("questions", "answers"))
        self._check_dialogs(data)
        for name in _ARRAYS:  # without a copy: the arrays keep their memory
            setattr(self, name, np.asarray(getattr(self, name)))
        self._check_places()
        faults = Faults(file, "dialog", NEED)
        for number, fault in sorted(self._bad.items()):
            faults.add(number, fault)
        faults.raise_all()
        self._drop(set(self._bad))
        if not data["dialogs"]:
            raise DataError(f"{file}: holds no dialogs. {NEED}")

    def __len__(self) -> int:
        return len(self.captions)

    def rounds(self, index: int) -> range:
        """Return the rounds of dialog ``index``, as positions in the arrays."""
        return range(int(self.starts[index]), int(self.starts[index + 1]))

    def candidates(self, turn: int) -> list[str]:
        """Return the candidate answers of round ``turn``."""
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
        """Pack candidates and whole dialogs; called with each mapping of the JSON, inner ones first."""
        if "answer_options" in fields:
            with contextlib.suppress(TypeError, OverflowError):  # reported with its dialog
                fields["answer_options"] = array("i", fields["answer_options"])
        if "dialog" not in fields:
            return fields
        row = self._columns.fields(fields)
        fault = row if isinstance(row, str) else _dialog_fault(row)
        if fault or isinstance(row, str):
            return _Faulty(number_fault_in(fields) or fault)
        self.names.append(valid_text(row.get("image", "")))
        self.image_ids.append(row.get("image_id", len(self.image_ids) + 1))
        self.captions.append(valid_text(row["caption"]))
        for turn in row["dialog"]:
            self.question.append(turn["question"])
            self.answer.append(turn.get("answer", UNKNOWN))
            self.gt_index.append(turn.get("gt_index", UNKNOWN))
            self.options.extend(turn.get("answer_options", ()))
            self.option_starts.append(len(self.options))
        self.starts.append(len(self.question))
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
        return PackedStrings(valid_text("" if place in unread else text) for place, text in enumerate(texts))

    def _check_dialogs(self, data: Mapping[str, Any]) -> None:
        if not isinstance(data.get("dialogs"), list):
            raise DataError(f"{self.file}: 'dialogs' under 'data' is {short(data.get('dialogs'))}, not a list. {NEED}")
        for number, left in enumerate(data["dialogs"], 1):
            if left is _PACKED:
                self.numbers.append(number)
            else:
                known = isinstance(left, (_Faulty, BadRow))
                self._bad[number] = left.reason if known else entry_fault(left, ["dialog"])
        self._columns.finish()
        if len(self.numbers) != len(self.image_ids):
            raise DataError(f"{self.file}: there are dialogs in other places than the list 'dialogs'. {NEED}")

    def _check_places(self) -> None:
        """Add the dialogs whose positions in lists do not exist to the bad ones."""
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
        """Remove the dialogs with these numbers."""
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
        for mask, names in ((kept, ("numbers", "image_ids")), (rounds, ("question", "answer", "gt_index"))):
            for name in names:
                setattr(self, name, getattr(self, name)[mask])
        self.options = self.options[options]


class _Faulty:
    """A dialog that cannot be used, with the reason."""

    def __init__(self, reason: str):
        self.reason = reason


def _last_start(starts: np.ndarray, place: int) -> int:
    """Return which of the consecutive pieces with these ``starts`` holds ``place``."""
    return int(np.searchsorted(starts, place, "right")) - 1


def dialog_columns(keys: Mapping[str, Key | None] | None = None, pattern: str | None = None) -> ColumnKeys:
    """Return the columns of a dialog except ``dialog`` itself.

    Args:
        keys: "image", "caption" and "image_id" to the key that the user set.
        pattern: makes file names of the values of the column of the image.
    """
    return ColumnKeys([IMAGE, CAPTION, IMAGE_ID], ["caption"], keys or {}, pattern)


def _dialog_fault(fields: Fields) -> str:
    """Return why ``fields`` is not a dialog, or ""."""
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


def read_relevance(file: Path) -> dict[tuple[int, int], np.ndarray]:
    """Read dense annotations: (image id, round from 1) to the relevance of each candidate, float32.

    Args:
        file: ``[{"image_id": int, "round_id": int, "gt_relevance": [float]}]``; in the training file ``relevance``.

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


def _relevance(row: Mapping[str, Any]) -> Sequence[float] | None:
    return row["gt_relevance"] if "gt_relevance" in row else row.get("relevance")


def _relevance_fault(row: Any) -> str:
    if not isinstance(row, Mapping):
        return f"{short(row)} is not a mapping."
    for key in ("image_id", "round_id"):
        if type(row.get(key)) is not int:
            return f"{key!r} is {short(row.get(key))}, not a number."
    values = _relevance(row)
    numbers = isinstance(values, list) and all(type(v) in (int, float) and 0 <= v <= 1 for v in values)
    return "" if numbers else f"'gt_relevance' is {short(values)}, not a list of numbers from 0 to 1."
