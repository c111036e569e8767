"""Greedy search and nucleus sampling.

Shapes: ``B`` images, ``K`` samples of an image, ``R`` live rows (texts), ``C`` tokens to draw from, ``V`` vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlkit.models.decoding import Generated, GenerationConfig, penalize_repetition
from vlkit.models.med import CrossStates, SelfCache, TextDecoder, moved_order


def draw_uniform(seeds: Tensor | None, count: int, config: GenerationConfig) -> Tensor:
    """[B, K, max_length] uniform numbers that decide every draw; each image's come from its own seed."""
    if seeds is None:
        seeds = torch.randint(2**62, (count,))
    shape = (config.num_return_sequences, config.max_length)
    generators = (torch.Generator().manual_seed(int(seed)) for seed in seeds)
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


def nucleus(logits: Tensor, config: GenerationConfig) -> tuple[Tensor, Tensor]:
    """Probabilities to draw from, after temperature, top-k and top-p, in this order.

    Args:
        logits: [R, V].
        config: temperature, top_k, top_p.

    Returns:
        probabilities [R, C], descending, 0 outside of the nucleus, sum 1, and their token ids [R, C].
    """
    logits = logits.float() / config.temperature
    size = logits.shape[-1]
    if config.top_k:
        top, ids = logits.topk(min(config.top_k, size))
        probs = top.softmax(-1)
    else:
        # Sorting the whole vocabulary is only needed when its head holds too little.
        lse = logits.logsumexp(-1, keepdim=True)
        top, ids = logits.topk(min(256, size))
        probs = (top - lse).exp()
        if top.shape[-1] < size and bool((probs.sum(-1) <= config.top_p).any()):
            top, ids = logits.sort(descending=True)
            probs = (top - lse).exp()
    before = probs.cumsum(-1) - probs
    # The first token always stays: rounding may leave something in front of it.
    outside = before > config.top_p
    outside[:, 0] = False
    probs = probs.masked_fill(outside, 0.0)
    return probs / probs.sum(-1, keepdim=True), ids


class Walk:
    """Greedy search and sampling: every row goes its own way until [SEP]."""

    def __init__(
        self,
        decoder: TextDecoder,
        images: CrossStates,
        prompt: Tensor,
        eos: int,
        config: GenerationConfig,
        uniform: Tensor | None,
    ):
        self.decoder, self.images, self.eos, self.config = decoder, images, eos, config
        count, self.length = prompt.shape
        self.samples = config.num_return_sequences if config.sample else 1
        rows = count * self.samples
        self.device = prompt.device
        self.cache = SelfCache(decoder.bert.config.num_hidden_layers, count, config.max_length)
        self.logits = decoder.next_logits(prompt, images, self.cache)
        self.tokens = prompt.new_zeros((rows, config.max_length))
        self.tokens[:, : self.length] = prompt.repeat_interleave(self.samples, 0)
        self.uniform = uniform.flatten(0, 1).to(self.device) if uniform is not None else None
        self.score = torch.zeros(rows, device=self.device)
        self.row_ids = np.arange(rows)  # which text each live row is
        self.image_of_row = np.repeat(np.arange(count), self.samples)  # place of its image in self.images
        self.sequences: list[list[int]] = [[] for _ in range(rows)]
        self.scores = [0.0] * rows
        if self.samples > 1:
            index = torch.from_numpy(self.image_of_row).to(self.device)
            self.logits = self.logits.index_select(0, index)
            self.cache.reorder(index)

    def run(self) -> Generated:
        while True:
            token = self._choose()
            self.tokens[:, self.length] = token
            self.length += 1
            self._leave((token == self.eos).cpu().numpy() | (self.length >= self.config.max_length))
            if not len(self.row_ids):
                break
            step = self.tokens[:, self.length - 1 : self.length]
            index = self.image_of_row if self.samples > 1 else None
            self.logits = self.decoder.next_logits(step, self.images, self.cache, index)
        n = self.samples
        cut = range(0, len(self.sequences), n)
        return Generated([self.sequences[i : i + n] for i in cut], [self.scores[i : i + n] for i in cut])

    def _choose(self) -> Tensor:
        logits, config = self.logits.float(), self.config
        log_norm = logits.logsumexp(-1)
        changed = logits
        if config.repetition_penalty != 1.0:
            changed = penalize_repetition(changed, self.tokens[:, : self.length], config.repetition_penalty)
        if self.length < config.min_length:
            changed = changed.index_fill(1, torch.tensor([self.eos], device=self.device), -torch.inf)
        if self.uniform is None:
            token = changed.argmax(-1)
        else:
            probs, ids = nucleus(changed, config)
            # Inverse of the cumulative distribution; the clamp is for sums that rounding left below 1.
            reached = (probs.cumsum(-1) <= self.uniform[:, self.length, None]).sum(-1, keepdim=True)
            last = (probs > 0).sum(-1, keepdim=True) - 1
            token = ids.gather(1, torch.minimum(reached, last)).squeeze(1)
        self.score += logits.gather(1, token[:, None]).squeeze(1) - log_norm
        return token

    def _leave(self, finished: np.ndarray) -> None:
        """File the texts that are complete and drop their rows, and the images that no row looks at any more."""
        if not finished.any():
            return
        for row in np.flatnonzero(finished):
            self.sequences[self.row_ids[row]] = self.tokens[row, : self.length].tolist()
            self.scores[self.row_ids[row]] = float(self.score[row])
        live = np.flatnonzero(~finished)
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
        index = torch.from_numpy(live).to(self.device)
        self.tokens, self.score = self.tokens[index], self.score[index]
        if self.uniform is not None:
            self.uniform = self.uniform[index]
        self.cache.reorder(index)
