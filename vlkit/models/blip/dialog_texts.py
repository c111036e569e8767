"""What the dialog encoder reads: history, question and candidate answer in one text.

``[ENC] q1? a1 [SEP] q2? a2 [SEP] ... q? candidate [SEP]``: a question ends in a question mark, a round in [SEP].
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from vlkit.errors import VlkitError
from vlkit.models.arguments import text_list
from vlkit.processors.tokenizer import Tokenizer

Ids = list[int]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The texts of one round.

    Args:
        image: which dialog of the batch it belongs to.
        texts: token ids of each candidate with all that stands in front of it.
        matched: which candidate is the answer; None: unknown.
    """

    image: int
    texts: list[Ids]
    matched: int | None = None


class DialogWriter:
    """Puts dialogs into token ids.

    A history that is too long loses its oldest rounds, whole ones. Room is kept for the longest candidate allowed, so
    that all candidates of a round see the same history, whatever the others are. A question alone that is too long
    loses its end.

    Args:
        tokenizer: of the model.
        max_words: longest text, in tokens.
        max_answer_words: longest answer or candidate, in tokens; longer ones are cut.

    Raises:
        VlkitError: no room for a question.
    """

    def __init__(self, tokenizer: Tokenizer, max_words: int, max_answer_words: int):
        if max_answer_words < 1 or max_words < max_answer_words + 3:
            raise VlkitError(
                f"max_words is {max_words} and max_answer_words {max_answer_words}: a text holds [ENC], a question, an "
                "answer of at least one token, and [SEP]. Raise max_words, or lower max_answer_words."
            )
        self.tokenizer, self.max_answer_words = tokenizer, max_answer_words
        self.room = max_words - 2 - max_answer_words

    def write(self, history: Sequence[tuple[str, str]], question: str, candidates: Sequence[str]) -> list[Ids]:
        """Token ids of each candidate behind ``history`` (questions and answers, oldest first) and ``question``."""
        turns = [self._turn(*self._encode([asked_for(asked), answer])) for asked, answer in history]
        asked, *answers = self._encode([asked_for(question), *candidates])
        return self._join(turns, asked, answers)

    def write_dialog(
        self, dialog: Sequence[Mapping[str, Any]], image: int, chosen: Sequence[Sequence[int]]
    ) -> list[Candidates]:
        """One :class:`Candidates` for each round.

        Args:
            dialog: rounds, oldest first, as datasets give them.
            image: place of the dialog in its batch.
            chosen: for each round which of its options to write; none writes nothing.
        """
        answers = [answer_of(turn) for turn in dialog]
        encoded = self._encode([t for turn, a in zip(dialog, answers) for t in (asked_for(turn["question"]), a)])
        turns = [self._turn(q, a) for q, a in zip(encoded[::2], encoded[1::2])]
        written = []
        for place, (turn, options) in enumerate(zip(dialog, chosen)):
            allowed = options_of(turn)
            texts = self._encode([allowed[i] for i in options]) if options else []
            matched = options.index(turn["gt_index"]) if turn.get("gt_index") in options else None
            written.append(Candidates(image, self._join(turns[:place], encoded[2 * place], texts), matched))
        return written

    def _join(self, turns: Sequence[Ids], question: Ids, candidates: Sequence[Ids]) -> list[Ids]:
        front = question[: self.room]
        for turn in reversed(turns):
            if len(turn) + len(front) > self.room:
                break
            front = turn + front
        front = [self.tokenizer.enc_id, *front]
        return [[*front, *ids[: self.max_answer_words], self.tokenizer.sep_id] for ids in candidates]

    def _turn(self, question: Ids, answer: Ids) -> Ids:
        return [*question, *answer[: self.max_answer_words], self.tokenizer.sep_id]

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        return self.tokenizer.encode(list(texts), special=False)


def asked_for(question: str) -> str:
    """``question`` with its question mark, which files of VisDial leave out."""
    return f"{question.rstrip(' ?')}?"


def answer_of(turn: Mapping[str, Any]) -> str:
    """The true answer of a round; empty where it is not known (the last round of a test set)."""
    if turn.get("answer") is not None:
        return turn["answer"]
    options, index = _texts(turn), turn.get("gt_index")
    return options[index] if options and index is not None else ""


def options_of(turn: Mapping[str, Any]) -> Sequence[str]:
    """The candidate answers of a round; none where they are not given.

    Raises:
        VlkitError: a round without a question, or whose ``gt_index`` is not among its candidates.
    """
    if not isinstance(turn, Mapping) or not isinstance(turn.get("question"), str):
        raise VlkitError(
            f"a round of a dialog is {turn!r:.80}; it must be a mapping with 'question', and 'answer', "
            "'answer_options' and 'gt_index' where they are known."
        )
    options = _texts(turn)
    index: Any = turn.get("gt_index")
    index = index.item() if hasattr(index, "item") else index  # of a tensor or an array
    if index is not None and not isinstance(index, numbers.Integral):
        raise VlkitError(f"the round {turn['question']!r:.80} has gt_index {index!r:.40}; it must be a whole number.")
    if index is not None and not 0 <= int(index) < len(options):
        raise VlkitError(
            f"the round {turn['question']!r} has gt_index {index}, but {len(options)} answer_options, which are "
            "counted from 0."
        )
    return options


def _texts(turn: Mapping[str, Any]) -> list[str]:
    given = turn.get("answer_options")
    return [] if given is None else text_list("answer_options", given, empty=True)
