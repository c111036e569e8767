"""Nucleus sampling and greedy search.

Shapes: ``A`` images, ``K`` samples of an image, ``R`` rows (texts), ``L`` most tokens of a text, ``C`` tokens to draw
from, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlkit.contracts import GenerationConfig
from vlkit.models.generation.steps import Generated, Method, State, largest, penalize_used


def draw_uniform(seeds: Tensor | None, count: int, config: GenerationConfig) -> Tensor:
    """Return [B, K, max_length] uniform numbers that decide every draw, those of an image from its own seed."""
    if seeds is None:
        seeds = torch.randint(2**62, (count,))
    shape = (config.num_return_sequences, config.max_length)
    generators = (torch.Generator().manual_seed(int(seed)) for seed in seeds)
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


# The nucleus is mostly within this number of the likeliest tokens.
_HEAD = 256


def nucleus(logits: Tensor, config: GenerationConfig, host_sync: bool = True) -> tuple[Tensor, Tensor]:
    """Return the probabilities to draw from, after temperature, top-k and top-p, in this order.

    Args:
        logits: [R, V].
        config: temperature, top_k, top_p.
        host_sync: sort the whole vocabulary only where its head holds too little, which the host reads back; False:
            always sort it.

    Returns:
        probabilities [R, C], descending, 0 outside of the nucleus, sum 1, and their token ids [R, C].
    """
    logits = logits.float() / config.temperature
    size = logits.shape[-1]
    if config.top_k:
        top, ids = largest(logits, min(config.top_k, size))
        probs = top.softmax(-1)
    else:
        lse = logits.logsumexp(-1, keepdim=True)
        top, ids = logits.topk(min(_HEAD, size)) if host_sync else logits.sort(descending=True)
        probs = (top - lse).exp()
        if top.shape[-1] < size and bool((probs.sum(-1) <= config.top_p).any()):
            top, ids = logits.sort(descending=True)
            probs = (top - lse).exp()
    before = probs.cumsum(-1) - probs
    # The first token always stays: rounding may put something in front of it.
    outside = before > config.top_p
    outside[:, 0].fill_(False)  # an assignment would copy the constant to the device
    probs = probs.masked_fill(outside, 0.0)
    return probs / probs.sum(-1, keepdim=True), ids


@dataclass
class SampleState(State):
    """State of R texts.

    Args:
        tokens: [R, L].
        scores: [R] sums of their log-probabilities.
        lengths: [R] of those that are done.
        done: [R] they have ended.
        uniform: [R, L] numbers that decide what is drawn; [R, 0] in greedy search.
    """

    scores: Tensor
    lengths: Tensor
    done: Tensor
    uniform: Tensor


class Sampler(Method[SampleState]):
    """Nucleus sampling and greedy search.

    Args:
        config, eos, host_sync: see :class:`~vlkit.models.generation.steps.Method`.
        uniform: [A, K, L] as :func:`draw_uniform` returns it; None: greedy search.
    """

    def __init__(self, config: GenerationConfig, eos: int, uniform: Tensor | None, host_sync: bool = True):
        super().__init__(config, eos, host_sync)
        self._uniform = uniform

    def start(self, prompt: Tensor) -> SampleState:
        """Begin texts with ``prompt`` [A, t]."""
        samples = self.config.rows
        rows = len(prompt) * samples
        tokens = prompt.new_zeros((rows, self.config.max_length))
        tokens[:, : prompt.shape[1]] = prompt.repeat_interleave(samples, 0)
        scores = torch.zeros(rows, device=prompt.device)
        lengths = torch.zeros(rows, dtype=torch.long, device=prompt.device)
        drawn = scores.new_zeros(rows, 0) if self._uniform is None else self._uniform.flatten(0, 1).to(prompt.device)
        return SampleState(tokens, scores, lengths, torch.zeros_like(lengths, dtype=torch.bool), drawn)

    def advance(
        self, state: SampleState, logits: Tensor, length: Tensor, places: Tensor | None = None
    ) -> tuple[SampleState, Tensor]:
        """See :meth:`~vlkit.models.generation.steps.Method.advance`; every text continues itself."""
        logits = logits.float()
        token = self._choose(state, logits, length)
        score = logits.gather(1, token[:, None]).squeeze(1) - logits.logsumexp(-1)
        extended = SampleState(
            tokens=state.tokens.index_copy(1, length, token[:, None]),
            scores=torch.where(state.done, state.scores, state.scores + score),
            lengths=torch.where(state.done, state.lengths, length + 1),
            done=state.done | (token == self.eos),
            uniform=state.uniform,
        )
        samples = self.config.rows
        return extended, torch.arange(samples, device=logits.device).expand(len(logits) // samples, -1)

    def _choose(self, state: SampleState, logits: Tensor, length: Tensor) -> Tensor:
        config = self.config
        if config.repetition_penalty != 1.0:
            logits = penalize_used(logits, state.tokens, length, config.repetition_penalty)
        if config.min_length > 0:
            too_short = length < config.min_length
            eos = torch.arange(logits.shape[1], device=logits.device) == self.eos
            logits = logits.masked_fill(eos & too_short, -torch.inf)
        if not config.sample:
            return logits.argmax(-1)
        probs, ids = nucleus(logits, config, self.host_sync)
        # Inverse of the cumulative distribution; the clamp is for sums that rounding left below 1.
        reached = (probs.cumsum(-1) <= state.uniform.index_select(1, length)).sum(-1, keepdim=True)
        last = (probs[:, 1:] > 0).sum(-1, keepdim=True)  # the first always stays, even where it is not a number
        return ids.gather(1, torch.minimum(reached, last)).squeeze(1)

    def finish(self, state: SampleState, length: Tensor) -> SampleState:
        """End the open texts at the greatest ``length`` [1]."""
        lengths = torch.where(state.done, state.lengths, length)
        return SampleState(state.tokens, state.scores, lengths, torch.ones_like(state.done), state.uniform)

    def finished(self, state: SampleState) -> Tensor:
        """Return [A] images whose texts have all ended."""
        return state.done.view(-1, self.config.rows).all(1)

    def results(self, state: SampleState) -> Generated:
        """See :meth:`~vlkit.models.generation.steps.Method.results`; in the order of the samples."""
        ids, lengths, scores = state.tokens.tolist(), state.lengths.tolist(), state.scores.tolist()
        texts = [row[:length] for row, length in zip(ids, lengths)]
        samples = self.config.rows
        starts = range(0, len(texts), samples)
        return Generated([texts[i : i + samples] for i in starts], [scores[i : i + samples] for i in starts])
