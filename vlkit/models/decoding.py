"""What all ways of decoding share: their configuration, their result, the repetition penalty, the best few scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Generic, TypeVar

import torch
from torch import Tensor

from vlkit.errors import ConfigError
from vlkit.registry.bounds import PositiveInt, Range, WholeNumber, check_fields

Beams = Annotated[int, Range(1, 1_000)]
"""Number of texts that are open for an image at a time."""


@dataclass
class GenerationConfig:
    """How texts are decoded.

    Args:
        max_length: most tokens, prompt included and final [SEP] excluded.
        min_length: [SEP] is not allowed before this number of tokens, prompt included.
        num_beams: beams K; 1 is greedy search.
        sample: draw instead of searching (nucleus sampling).
        top_p: draw from the fewest tokens that hold this probability, 0..1.
        top_k: draw from at most this number of tokens; 0: no limit.
        temperature: logits are divided by it before drawing.
        repetition_penalty: above 1, tokens that were used already (prompt included) become less likely.
        length_penalty: exponent of the length that beam scores are divided by.
        num_return_sequences: texts returned for each image: the best beams, or as many samples.
        num_beam_groups: number of groups in diverse beam search, each of which avoids the words that
            earlier groups take in the same step.
        diversity_penalty: what a word's log-probability loses for each beam that has taken it so; above 0 with groups.

    Raises:
        ConfigError: values that contradict each other.
    """

    max_length: PositiveInt = 30
    min_length: WholeNumber = 10
    num_beams: Beams = 3
    sample: bool = False
    top_p: Annotated[float, Range(0, 1, open=True)] = 0.9
    top_k: WholeNumber = 0
    temperature: Annotated[float, Range(1e-6, 1e6)] = 1.0
    repetition_penalty: Annotated[float, Range(0.01, 100)] = 1.0
    length_penalty: Annotated[float, Range(-100, 100)] = 1.0
    num_return_sequences: Annotated[int, Range(1, 100_000)] = 1
    num_beam_groups: Beams = 1
    diversity_penalty: Annotated[float, Range(0, 1e6)] = 0.0

    def __post_init__(self) -> None:
        check_fields(self, "generation")
        if self.min_length > self.max_length:
            raise ConfigError(
                f"generation: min_length {self.min_length} is above max_length {self.max_length}; lower it."
            )
        self._check_groups()
        if not self.sample and self.num_return_sequences > self.num_beams:
            raise ConfigError(
                f"generation: {self.num_return_sequences} sequences cannot come from {self.num_beams} beams: raise "
                f"num_beams, or sample."
            )

    @property
    def rows(self) -> int:
        """Texts K that are open for an image at a time."""
        return self.num_return_sequences if self.sample else self.num_beams

    def _check_groups(self) -> None:
        groups, penalty = self.num_beam_groups, self.diversity_penalty
        if (groups > 1) != (penalty > 0) or penalty < 0:
            raise ConfigError(
                f"generation: num_beam_groups is {groups} and diversity_penalty {penalty}; diverse beam search needs "
                f"groups and a penalty above 0, other decoding 1 group and none."
            )
        if groups > 1 and (self.sample or self.num_beams % groups):
            given = "sample is true" if self.sample else f"num_beams is {self.num_beams}"
            raise ConfigError(
                f"generation: num_beam_groups is {groups} and {given}; groups divide the beams of a beam search evenly."
            )


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
