"""Visual dialog data: check samples and write history, question and candidate answer as one text.

``[ENC] q1? a1 [SEP] q2? a2 [SEP] ... q? candidate [SEP]``: a question ends with a question mark, a round with [SEP].
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlkit.errors import VlkitError
from vlkit.models.arguments import text_list
from vlkit.models.blip.samples import Samples, wanted
from vlkit.processors.tokenizer import Tokenizer

Ids = list[int]
Dialog = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Candidates:
    """The texts of one round.

    Args:
        image: index of its dialog in the batch.
        texts: token ids of each candidate with history and question.
        matched: index of the right answer; None: unknown.
    """

    image: int
    texts: list[Ids]
    matched: int | None = None


class DialogWriter:
    """Write dialogs as token ids.

    If the history is too long, its oldest rounds are dropped. Tokens are reserved for the longest candidate allowed, so
    that all candidates of a round see the same history. If the question alone is too long, its end is dropped.

    Args:
        tokenizer: of the model.
        max_words: longest text, in tokens.
        max_answer_words: longest answer or candidate, in tokens; longer ones are truncated.

    Raises:
        VlkitError: the lengths leave no token for a question.
    """

    def __init__(self, tokenizer: Tokenizer, max_words: int, max_answer_words: int):
        if max_answer_words < 1 or max_words < max_answer_words + 3:
            raise VlkitError(
                f"max_words is {max_words} and max_answer_words {max_answer_words}: a text holds [ENC], a question, an "
                "answer of at least one token, and [SEP]. Raise max_words, or lower max_answer_words."
            )
        self.tokenizer, self.max_answer_words = tokenizer, max_answer_words
        self.front_length = max_words - 2 - max_answer_words

    def write(self, history: Sequence[tuple[str, str]], question: str, candidates: Sequence[str]) -> list[Ids]:
        """Return token ids of each candidate after ``history`` (questions, answers; oldest first) and ``question``."""
        turns = [self._turn(*self._encode([with_question_mark(past), answer])) for past, answer in history]
        question_ids, *answers = self._encode([with_question_mark(question), *candidates])
        return self._join(turns, question_ids, answers)

    def write_dialog(
        self, dialog: Sequence[Mapping[str, Any]], image: int, chosen: Sequence[Sequence[int]]
    ) -> list[Candidates]:
        """Write one :class:`Candidates` for each round.

        Args:
            dialog: rounds, oldest first, as datasets give them.
            image: index of the dialog in its batch.
            chosen: for each round the indices of the options to write; may be empty.
        """
        answers = [answer_of(turn) for turn in dialog]
        texts = [[with_question_mark(turn["question"]), answer] for turn, answer in zip(dialog, answers)]
        encoded = self._encode([text for pair in texts for text in pair])
        turns = [self._turn(q, a) for q, a in zip(encoded[::2], encoded[1::2])]
        written = []
        for place, (turn, options) in enumerate(zip(dialog, chosen)):
            allowed = options_of(turn)
            candidates = self._encode([allowed[i] for i in options]) if options else []
            matched = options.index(turn["gt_index"]) if turn.get("gt_index") in options else None
            written.append(Candidates(image, self._join(turns[:place], encoded[2 * place], candidates), matched))
        return written

    def _join(self, turns: Sequence[Ids], question: Ids, candidates: Sequence[Ids]) -> list[Ids]:
        front = question[: self.front_length]
        for turn in reversed(turns):
            if len(turn) + len(front) > self.front_length:
                break
            front = turn + front
        front = [self.tokenizer.enc_id, *front]
        return [[*front, *ids[: self.max_answer_words], self.tokenizer.sep_id] for ids in candidates]

    def _turn(self, question: Ids, answer: Ids) -> Ids:
        return [*question, *answer[: self.max_answer_words], self.tokenizer.sep_id]

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        return self.tokenizer.encode(list(texts), special=False)


def dialogs_of(samples: Samples, images: int, model: str) -> Sequence[Dialog]:
    """Return the ``dialog`` of each image; that of a single image need not be in a list.

    Raises:
        VlkitError: they are no lists of rounds, or not one for each of ``images`` images.
    """
    dialogs = wanted(samples, "dialog", model)
    if not isinstance(dialogs, Sequence) or isinstance(dialogs, (str, bytes)):
        raise VlkitError(f"dialog is {dialogs!r:.80}; give a list of rounds for each image.")
    if images == 1 and dialogs and isinstance(dialogs[0], Mapping):
        dialogs = [dialogs]
    if len(dialogs) != images:
        raise VlkitError(f"{model} needs one dialog an image; given: {images} captions, {len(dialogs)} dialogs.")
    for place, rounds in enumerate(dialogs):
        if not isinstance(rounds, Sequence) or isinstance(rounds, (str, bytes)):
            raise VlkitError(f"dialog[{place}] is {rounds!r:.80}; give a list of rounds, which are mappings.")
    return dialogs


def answer_and_negatives(turn: Mapping[str, Any], count: int) -> list[int]:
    """Return the index of the answer and of ``count`` random wrong candidates; nothing if the answer is unknown."""
    options, answer = options_of(turn), turn.get("gt_index")
    if answer is None:
        return []
    others = [i for i, text in enumerate(options) if text != options[answer]]
    sampled = torch.randperm(len(others))[:count].tolist()
    return [answer, *(others[i] for i in sampled)] if others else []


def with_question_mark(question: str) -> str:
    """Append the question mark, which VisDial's files leave out."""
    return f"{question.rstrip(' ?')}?"


def answer_of(turn: Mapping[str, Any]) -> str:
    """Return the true answer of a round; empty if unknown (the last round of a test set)."""
    if turn.get("answer") is not None:
        return turn["answer"]
    options, index = _texts(turn), turn.get("gt_index")
    return options[index] if options and index is not None else ""


def options_of(turn: Mapping[str, Any]) -> Sequence[str]:
    """Return the candidate answers of a round, or none.

    Raises:
        VlkitError: a round without a question, or whose ``gt_index`` is not among its candidates.
    """
    if not isinstance(turn, Mapping) or not isinstance(turn.get("question"), str):
        raise VlkitError(
            f"a round of a dialog is {turn!r:.80}; it must be a mapping with 'question', and 'answer', "
            "'answer_options' and 'gt_index' if they are known."
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
