"""Dialogs of VisDial v1.0 in flat arrays, which worker processes share."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlkit.datasets.annotation_formats import Faults, lacks, short
from vlkit.datasets.packed import PackedStrings
from vlkit.errors import DataError

NEED = (
    "A dialog needs 'image_id', 'caption' and 'dialog': a list of rounds with 'question', 'answer', 'answer_options' "
    "and 'gt_index', which are places in the lists 'questions' and 'answers' (in 'answer_options'), counted from 0."
)
UNKNOWN = -1


class DialogTable:
    """The dialogs of an annotation file.

    While the file is read, each round's candidates go to a flat array at once: as Python lists, those of the training
    set (1.2 million rounds, 100 candidates each) would take gigabytes.

    Args:
        file: ``{"data": {"questions": [str], "answers": [str], "dialogs": [...]}}``.

    Attributes:
        questions, answers: all different texts.
        captions: [N] of the dialogs.
        image_ids: int64 [N].
        starts: int64 [N + 1], the first round of each dialog.
        question, answer: int32 [R], places in ``questions`` and ``answers``; ``UNKNOWN`` where there is none.
        gt_index: int32 [R], the answer's place among the candidates, or ``UNKNOWN``.
        option_starts: int64 [R + 1], the first candidate of each round.
        options: int32, places in ``answers``.

    Raises:
        DataError: the file cannot be read, or is of another format.
    """

    def __init__(self, file: Path):
        self.file, self.captions = file, PackedStrings()
        self._faults = Faults(file, "dialog", NEED)
        self._ids, self._starts, self._option_starts = array("q"), array("q", [0]), array("q", [0])
        self._question, self._answer, self._gt, self._options = array("i"), array("i"), array("i"), array("i")
        data = self._read()
        self.questions, self.answers = (self._texts(data, name) for name in ("questions", "answers"))
        self._check_dialogs(data)
        # Without a copy: the arrays stay the owners of their memory.
        self.image_ids, self.starts = np.asarray(self._ids), np.asarray(self._starts)
        self.question, self.answer, self.gt_index = map(np.asarray, (self._question, self._answer, self._gt))
        self.option_starts, self.options = np.asarray(self._option_starts), np.asarray(self._options)
        del self._ids, self._starts, self._option_starts, self._question, self._answer, self._gt, self._options
        self._check_places()
        self._faults.raise_all()
        if not len(self):
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
            with open(self.file, encoding="utf-8") as stream:
                content = json.load(stream, object_hook=self._take)
        except json.JSONDecodeError as error:
            where = f"line {error.lineno}, column {error.colno}"
            raise DataError(f"{self.file}: not valid JSON at {where}: {error.msg}.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.file}: cannot be read: {error}") from error
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
        number = len(self._ids) + self._faults.count + 1
        fault = _dialog_fault(fields)
        if fault:
            self._faults.add(number, fault)
            return None
        self._ids.append(fields["image_id"])
        self.captions.append(_text(fields["caption"]))
        for turn in fields["dialog"]:
            self._question.append(turn["question"])
            self._answer.append(turn.get("answer", UNKNOWN))
            self._gt.append(turn.get("gt_index", UNKNOWN))
            self._options.extend(turn.get("answer_options", ()))
            self._option_starts.append(len(self._options))
        self._starts.append(len(self._question))
        return None

    def _texts(self, data: Mapping[str, Any], name: str) -> PackedStrings:
        texts = data.get(name)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{self.file}: {name!r} under 'data' is {short(texts)}; a list of texts is needed. {NEED}")
        return PackedStrings(map(_text, texts))

    def _check_dialogs(self, data: Mapping[str, Any]) -> None:
        if not isinstance(data.get("dialogs"), list):
            raise DataError(f"{self.file}: 'dialogs' under 'data' is {short(data.get('dialogs'))}, not a list. {NEED}")
        for number, left in enumerate(data["dialogs"], 1):
            if left is not None:  # whole dialogs have vanished
                what = lacks("dialog", left) if isinstance(left, Mapping) else f"{short(left)} is not a mapping."
                self._faults.add(number, what)

    def _check_places(self) -> None:
        sizes = np.diff(self.option_starts)
        for what, values, low, limit in (
            ("question", self.question, 0, len(self.questions)),
            ("answer", self.answer, UNKNOWN, len(self.answers)),
            ("answer_options", self.options, 0, len(self.answers)),
            ("gt_index", self.gt_index, UNKNOWN, sizes),
        ):
            for at in np.flatnonzero((values < low) | (values >= limit)).tolist():
                turn = _last_start(self.option_starts, at) if what == "answer_options" else at
                dialog = _last_start(self.starts, turn)
                most = int(np.broadcast_to(limit, values.shape)[at]) - 1
                self._faults.add(
                    dialog + 1,
                    f"{what!r} of round {turn - int(self.starts[dialog]) + 1} is {values[at]}; 0 to {most} is there.",
                )


def _last_start(starts: np.ndarray, place: int) -> int:
    """Which of consecutive pieces with these ``starts`` holds ``place``."""
    return int(np.searchsorted(starts, place, "right")) - 1


def _dialog_fault(fields: Mapping[str, Any]) -> str:
    """Why ``fields`` is not a dialog, or ""."""
    for key in ("image_id", "caption"):
        if key not in fields:
            return lacks(key, fields)
    if type(fields["image_id"]) is not int or not isinstance(fields["caption"], str):
        return (
            f"image_id {short(fields['image_id'])} and caption {short(fields['caption'])}: a number and a text needed."
        )
    rounds = fields["dialog"]
    if not isinstance(rounds, list) or not rounds:
        return f"'dialog' is {short(rounds)}, not a list of rounds."
    for number, turn in enumerate(rounds, 1):
        if not isinstance(turn, Mapping) or "question" not in turn:
            return f"round {number} is {short(turn)}, not a mapping with a 'question'."
        for key in ("question", "answer", "gt_index"):
            if type(turn.get(key, 0)) is not int:
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
        rows = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: the top level is {short(rows)}; a list of rows is needed. {need}")
    faults, found = Faults(file, need=need), {}
    for number, row in enumerate(rows, 1):
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
