"""A dialog about one image that remembers what was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from vlkit.errors import VlkitError
from vlkit.models.arguments import check_whole, checked_keywords, text_list
from vlkit.models.kv_cache import ImageKV

if TYPE_CHECKING:
    from vlkit.models.blip.dialog import BlipDialog


class RankedAnswer(NamedTuple):
    """A candidate answer and the probability, 0..1, that it fits."""

    answer: str
    score: float


class DialogSession:
    """A dialog about one image; made by :meth:`BlipDialog.chat`.

    Args:
        model: that answers.
        states: keys and values of the image and its caption.
        answers: candidates for questions that bring none.

    Attributes:
        history: questions and the answers taken, oldest first; may be edited (to correct an answer, say).
    """

    def __init__(self, model: BlipDialog, states: ImageKV, answers: Sequence[str] | None = None):
        self.model, self.states = model, states
        self.answers = list(answers or ())
        self.history: list[tuple[str, str]] = []

    @checked_keywords
    @torch.inference_mode()
    def ask(
        self, question: str, candidates: Sequence[str] | str | None = None, tokens_at_once: int = 16384
    ) -> list[RankedAnswer]:
        """All candidates, best first; the best one joins the history as the answer.

        Args:
            question: may refer to what was said before.
            candidates: possible answers; None: those of the session.
            tokens_at_once: see :meth:`BlipDialog.score`.

        Raises:
            VlkitError: there are no candidates.
        """
        if not isinstance(question, str):
            raise VlkitError(f"question is {question!r:.80}; it must be a string.")
        check_whole("tokens_at_once", tokens_at_once, 1)
        options = list(self.answers) if candidates is None else text_list("candidates", candidates, empty=True)
        if not options:
            raise VlkitError("there is no answer to choose from: give candidates to ask(), or answers to chat().")
        texts = self.model.writer.write(self.history, question, options)
        margins = self.model.margins(texts, self.states, np.zeros(len(texts), np.int64), tokens_at_once)
        order = torch.argsort(margins, descending=True, stable=True).tolist()
        scores = margins.sigmoid().tolist()
        ranked = [RankedAnswer(options[i], scores[i]) for i in order]
        self.history.append((question, ranked[0].answer))
        return ranked
