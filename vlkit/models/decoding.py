"""What all ways of decoding share: their configuration, their result, and the repetition penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlkit.errors import ConfigError


@dataclass
class GenerationConfig:
    """How texts are decoded.

    Args:
        max_length: most tokens, prompt included and final [SEP] excluded.
        min_length: [SEP] is not allowed before so many tokens, prompt included.
        num_beams: beams K; 1 is greedy search.
        sample: draw instead of searching (nucleus sampling).
        top_p: draw from the fewest tokens that hold this probability, 0..1.
        top_k: draw from at most so many tokens; 0: no limit.
        temperature: logits are divided by it before drawing.
        repetition_penalty: above 1, tokens that were used already (prompt included) become less likely.
        length_penalty: exponent of the length that beam scores are divided by.
        num_return_sequences: texts returned for each image: the best beams, or so many samples.
        num_beam_groups: diverse beam search: the beams are in so many groups, each of which avoids the words that
            earlier groups take in the same step.
        diversity_penalty: what a word's log-probability loses for each beam that has taken it so; above 0 with groups.

    Raises:
        ConfigError: values that contradict each other.
    """

    max_length: int = 30
    min_length: int = 10
    num_beams: int = 3
    sample: bool = False
    top_p: float = 0.9
    top_k: int = 0
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    num_return_sequences: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_length", "num_beams", "num_return_sequences", "num_beam_groups"):
            if getattr(self, name) < 1:
                raise ConfigError(f"generation: {name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"generation: top_p is {self.top_p}; it must be above 0 and at most 1.")
        for name in ("temperature", "repetition_penalty"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"generation: {name} is {getattr(self, name)}; it must be above 0.")
        if self.top_k < 0:
            raise ConfigError(f"generation: top_k is {self.top_k}; it must be 0 (no limit) or more.")
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


def penalize_repetition(scores: Tensor, used: Tensor, penalty: float) -> Tensor:
    """Make the tokens ``used`` [R, t] less likely in ``scores`` [R, V]: positive ones are divided, negative multiplied
    (log-probabilities, which are negative, are therefore multiplied)."""
    values = scores.gather(1, used)
    return scores.scatter(1, used, torch.where(values < 0, values * penalty, values / penalty))
