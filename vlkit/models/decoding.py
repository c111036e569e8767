"""Shared parts of the decoding methods: their result, their state, the repetition penalty, the largest scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import torch
from torch import Tensor

from vlkit.contracts import GenerationConfig


@dataclass
class Generated:
    """Decoded texts.

    Args:
        sequences: for each image its texts, best first, as token ids: prompt included, and the final [SEP] if the
            text ended before ``max_length``.
        scores: of each text: beam search gives the log-probability over the length, the others its plain sum.
    """

    sequences: list[list[list[int]]]
    scores: list[list[float]]

    @classmethod
    def none_yet(cls, count: int) -> Generated:
        """Of ``count`` images, to be filled by :meth:`put`."""
        return cls([[]] * count, [[]] * count)

    def put(self, images: Iterable[int], texts: Generated) -> None:
        """The ``texts`` of as many images are those of ``images`` here."""
        for image, sequences, scores in zip(images, texts.sequences, texts.scores):
            self.sequences[image], self.scores[image] = sequences, scores


StateT = TypeVar("StateT", bound="State")


@dataclass
class State:
    """Tensors that tell where the texts of some images stand; each holds as many entries of its first dimension for
    every image, one image after the other.

    Args:
        tokens: [..., L] of the open texts.
    """

    tokens: Tensor

    def tensors(self) -> list[Tensor]:
        """All of them, always in the same order."""
        return [getattr(self, field.name) for field in fields(self)]

    def of_images(self: StateT, index: Tensor, count: int) -> StateT:
        """The images ``index`` of all ``count``."""
        return type(self)(*(x.unflatten(0, (count, -1))[index].flatten(0, 1) for x in self.tensors()))


class Rules(ABC, Generic[StateT]):
    """A way of decoding, step by step.

    Args:
        config: how to decode.
        eos: id of [SEP].
        ask: let the host look whether work can be skipped.
    """

    def __init__(self, config: GenerationConfig, eos: int, ask: bool = True):
        self.config, self.eos, self._ask = config, eos, ask

    @abstractmethod
    def advance(
        self, state: StateT, logits: Tensor, length: Tensor, places: Tensor | None = None
    ) -> tuple[StateT, Tensor]:
        """The state after one step.

        Args:
            state: before it.
            logits: [R, V] of the next token of the open texts.
            length: [1] int64, tokens that the open texts have.
            places: which of the rows of ``logits`` each open text has; None: they are in order.

        Returns:
            The state, and which open text of its image [A, K] each one now continues.
        """

    @abstractmethod
    def close_open(self, state: StateT, length: Tensor) -> StateT:
        """What is open at the greatest ``length`` [1] ends there."""

    @abstractmethod
    def finished(self, state: StateT) -> Tensor:
        """[A] images that nothing more will change."""

    @abstractmethod
    def file(self, state: StateT) -> Generated:
        """The texts that images ended with."""


# Scores are searched in parts of this size.
_PART = 64


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of the last dimension, descending, and their places: what topk gives, in a fraction of its
    time where many are to be read. Of equal ones any may be given."""
    size = scores.shape[-1]
    parts = size // _PART
    if parts <= 2 * count:
        return scores.topk(count)
    # They are in the parts with the largest maxima (or behind the last whole part).
    cut = parts * _PART
    whole = scores[..., :cut].unflatten(-1, (parts, _PART))
    chosen = whole.amax(-1).topk(count, sorted=False)[1]
    places = (chosen[..., None] * _PART + torch.arange(_PART, device=scores.device)).flatten(-2)
    behind = torch.arange(cut, size, device=scores.device).expand(*scores.shape[:-1], -1)
    places = torch.cat([places, behind], -1)
    values, index = scores.gather(-1, places).topk(count)
    return values, places.gather(-1, index)


def penalize_used(scores: Tensor, tokens: Tensor, length: Tensor, penalty: float) -> Tensor:
    """:func:`penalize_repetition` of ``scores`` [..., V] for the first ``length`` [1] of ``tokens`` [..., L]."""
    behind = torch.arange(tokens.shape[-1], device=tokens.device) >= length
    used = torch.where(behind, tokens[..., :1], tokens)  # naming one twice changes nothing
    return penalize_repetition(scores, used, penalty)


def penalize_repetition(scores: Tensor, used: Tensor, penalty: float) -> Tensor:
    """Make the tokens ``used`` [..., t] less likely in ``scores`` [..., V]: positive ones are divided, negative
    multiplied (log-probabilities, which are negative, are therefore multiplied)."""
    values = scores.gather(-1, used)
    return scores.scatter(-1, used, torch.where(values < 0, values * penalty, values / penalty))
