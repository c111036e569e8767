"""Greedy search and nucleus sampling.

Shapes: ``B`` images, ``K`` samples of an image, ``R`` rows (texts), ``L`` most tokens of a text, ``C`` tokens to draw
from, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlkit.models.decoding import Generated, GenerationConfig, Rules, State, largest, penalize_used
from vlkit.models.kv_cache import SelfCache
from vlkit.models.med import ImageKV, TextDecoder, moved_order


def draw_uniform(seeds: Tensor | None, count: int, config: GenerationConfig) -> Tensor:
    """[B, K, max_length] uniform numbers that decide every draw; each image's come from its own seed."""
    if seeds is None:
        seeds = torch.randint(2**62, (count,))
    shape = (config.num_return_sequences, config.max_length)
    generators = (torch.Generator().manual_seed(int(seed)) for seed in seeds)
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


# So many of the likeliest tokens mostly hold enough.
_HEAD = 256


def nucleus(logits: Tensor, config: GenerationConfig, ask: bool = True) -> tuple[Tensor, Tensor]:
    """Probabilities to draw from, after temperature, top-k and top-p, in this order.

    Args:
        logits: [R, V].
        config: temperature, top_k, top_p.
        ask: sort the whole vocabulary only where its head holds too little, which the host asks for; False: always.

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
        top, ids = logits.topk(min(_HEAD, size)) if ask else logits.sort(descending=True)
        probs = (top - lse).exp()
        if top.shape[-1] < size and bool((probs.sum(-1) <= config.top_p).any()):
            top, ids = logits.sort(descending=True)
            probs = (top - lse).exp()
    before = probs.cumsum(-1) - probs
    # The first token always stays: rounding may leave something in front of it.
    outside = before > config.top_p
    outside[:, 0].fill_(False)  # an assignment would copy the constant to the device
    probs = probs.masked_fill(outside, 0.0)
    return probs / probs.sum(-1, keepdim=True), ids


@dataclass
class WalkState(State):
    """Where R texts stand.

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


class Walks(Rules[WalkState]):
    """The rules of greedy search and of sampling."""

    def start(self, prompt: Tensor, uniform: Tensor | None) -> WalkState:
        """Texts that begin with ``prompt`` [B, t], ``uniform`` [B, K, L] as :func:`draw_uniform` gives it (None: greedy
        search)."""
        samples = self.config.rows
        rows = len(prompt) * samples
        tokens = prompt.new_zeros((rows, self.config.max_length))
        tokens[:, : prompt.shape[1]] = prompt.repeat_interleave(samples, 0)
        scores = torch.zeros(rows, device=prompt.device)
        lengths = torch.zeros(rows, dtype=torch.long, device=prompt.device)
        drawn = scores.new_zeros(rows, 0) if uniform is None else uniform.flatten(0, 1).to(prompt.device)
        return WalkState(tokens, scores, lengths, torch.zeros_like(lengths, dtype=torch.bool), drawn)

    def advance(
        self, state: WalkState, logits: Tensor, length: Tensor, places: Tensor | None = None
    ) -> tuple[WalkState, Tensor]:
        """See :meth:`~vlkit.models.decoding.Rules.advance`; every text continues itself, so nobody moves rows."""
        logits = logits.float()
        token = self._choose(state, logits, length)
        score = logits.gather(1, token[:, None]).squeeze(1) - logits.logsumexp(-1)
        walked = WalkState(
            tokens=state.tokens.index_copy(1, length, token[:, None]),
            scores=torch.where(state.done, state.scores, state.scores + score),
            lengths=torch.where(state.done, state.lengths, length + 1),
            done=state.done | (token == self.eos),
            uniform=state.uniform,
        )
        samples = self.config.rows
        return walked, torch.arange(samples, device=logits.device).expand(len(logits) // samples, -1)

    def _choose(self, state: WalkState, logits: Tensor, length: Tensor) -> Tensor:
        config = self.config
        if config.repetition_penalty != 1.0:
            logits = penalize_used(logits, state.tokens, length, config.repetition_penalty)
        if config.min_length > 0:
            too_short = length < config.min_length
            eos = torch.arange(logits.shape[1], device=logits.device) == self.eos
            logits = logits.masked_fill(eos & too_short, -torch.inf)
        if not config.sample:
            return logits.argmax(-1)
        probs, ids = nucleus(logits, config, self._ask)
        # Inverse of the cumulative distribution; the clamp is for sums that rounding left below 1.
        reached = (probs.cumsum(-1) <= state.uniform.index_select(1, length)).sum(-1, keepdim=True)
        last = (probs[:, 1:] > 0).sum(-1, keepdim=True)  # the first always stays, even where it is not a number
        return ids.gather(1, torch.minimum(reached, last)).squeeze(1)

    def close_open(self, state: WalkState, length: Tensor) -> WalkState:
        """Texts that go on end at the greatest ``length`` [1]."""
        lengths = torch.where(state.done, state.lengths, length)
        return WalkState(state.tokens, state.scores, lengths, torch.ones_like(state.done), state.uniform)

    def finished(self, state: WalkState) -> Tensor:
        """[B] images whose texts have all ended."""
        return state.done.view(-1, self.config.rows).all(1)

    def file(self, state: WalkState) -> Generated:
        """The texts of images, as they were drawn."""
        ids, lengths, scores = state.tokens.tolist(), state.lengths.tolist(), state.scores.tolist()
        texts = [row[:length] for row, length in zip(ids, lengths)]
        samples = self.config.rows
        cut = range(0, len(texts), samples)
        return Generated([texts[i : i + samples] for i in cut], [scores[i : i + samples] for i in cut])


class Sampler:
    """Greedy search and sampling step by step: every row goes its own way until [SEP] and leaves."""

    def __init__(self, decoder: TextDecoder, images: ImageKV, prompt: Tensor, rules: Walks, state: WalkState):
        self.decoder, self.images, self.rules, self.state = decoder, images, rules, state
        count, self.length = prompt.shape
        samples = rules.config.rows
        self.row_ids = np.arange(count * samples)  # which text each live row is
        self.image_of_row = np.repeat(np.arange(count), samples)  # place of its image in self.images
        self.found = Generated([[[]] * samples for _ in range(count)], [[0.0] * samples for _ in range(count)])
        self.cache = SelfCache(decoder.bert.config.num_hidden_layers, count, rules.config.max_length)
        self.logits = decoder.next_logits(prompt, images, self.cache)
        if samples > 1:
            self.logits = self.logits.repeat_interleave(samples, 0)
            self.cache.reorder(self.image_of_row)

    def run(self) -> Generated:
        device = self.logits.device
        while True:
            length = torch.tensor([self.length], device=device)
            self.state, _ = self.rules.advance(self.state, self.logits, length)
            self.length += 1
            if self.length >= self.rules.config.max_length:
                self.state = self.rules.close_open(self.state, length + 1)
            done = self.state.done.cpu().numpy()
            if done.any():
                self._leave(done)
            if not len(self.row_ids):
                return self.found
            step = self.state.tokens[:, self.length - 1 : self.length]
            index = self.image_of_row if self.rules.config.rows > 1 else None
            self.logits = self.decoder.next_logits(step, self.images, self.cache, index)

    def _leave(self, done: np.ndarray) -> None:
        """File the texts that are complete and drop their rows, and the images that no row looks at any more."""
        device = self.logits.device
        leaving = np.flatnonzero(done)
        left = self.state.of_images(torch.from_numpy(leaving).to(device), len(done))
        for text, ids, length, score in zip(
            self.row_ids[leaving], left.tokens.tolist(), left.lengths.tolist(), left.scores.tolist()
        ):
            image, sample = divmod(text, self.rules.config.rows)
            self.found.sequences[image][sample], self.found.scores[image][sample] = ids[:length], score
        live = np.flatnonzero(~done)
        self.row_ids = self.row_ids[live]
        if not len(live):
            return
        looked_at = np.unique(self.image_of_row[live])
        order = np.asarray(moved_order(looked_at.tolist(), self.images.count))
        if len(order) < self.images.count:
            self.images = self.images.narrow_(looked_at.tolist())
        place = np.empty(order.max() + 1, dtype=np.int64)
        place[order] = np.arange(len(order))
        self.image_of_row = place[self.image_of_row[live]]
        # Rows stand in the order of their images, so that row i looks at image i when each has one.
        by_image = np.argsort(self.image_of_row, kind="stable")
        live, self.row_ids, self.image_of_row = (
            live[by_image],
            self.row_ids[by_image],
            self.image_of_row[by_image],
        )
        self.state = self.state.of_images(torch.from_numpy(live).to(device), len(done))
        self.cache.reorder(live)
