"""Value types of the calls between tasks and models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from vlkit.errors import ConfigError
from vlkit.registry.bounds import PositiveInt, Range, WholeNumber, check_fields

Beams = Annotated[int, Range(1, 1_000)]
"""Number of open texts of an image."""


@dataclass
class GenerationConfig:
    """Configure how texts are decoded.

    Args:
        max_length: most tokens, prompt included and final [SEP] excluded.
        min_length: [SEP] is not allowed before this number of tokens, prompt included.
        num_beams: beams K; 1 is greedy search.
        sample: sample instead of searching (nucleus sampling).
        top_p: sample from the fewest tokens with this total probability, 0 to 1.
        top_k: sample from at most this number of tokens; 0: no limit.
        temperature: divisor of the logits before sampling.
        repetition_penalty: above 1, tokens that were used already (prompt included) become less likely.
        length_penalty: exponent of the length that beam scores are divided by.
        num_return_sequences: texts returned for each image: the best beams, or samples.
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
        """Number K of open texts of an image."""
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
class ScoredText:
    """A text of an image and its scores.

    Args:
        text: web text or generated caption; a sampled one may be empty.
        source: "web" or "synthetic".
        itm: probability 0 to 1 that it matches the image; 0 if the text is empty.
        itc: cosine similarity to the image; None if the filter has no projections or the text is empty.
        log_prob: the captioner's log-probability of a synthetic text, over its length for beam search.
    """

    text: str
    source: str
    itm: float
    itc: float | None = None
    log_prob: float | None = None
