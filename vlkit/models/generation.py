"""Decoding: beam search, greedy search, nucleus sampling.

Beam search follows the rules that the original's captions depend on: a hypothesis scores the sum of its
log-probabilities over its length, and the length counts the prompt but not the final [SEP].

The image's keys and values are never repeated: all beams or samples of an image attend to its one copy. A prompt is read
once per image, not once per beam. Images that are finished leave the batch.

Shapes: ``B`` images, ``A`` images still being decoded, ``K`` beams or samples of an image, ``R`` live rows, ``V``
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlkit.errors import VlkitError
from vlkit.models.med import CrossStates, SelfCache, TextDecoder, moved_order

# A beam that does not exist yet; added to log-probabilities, it keeps their order.
_NO_BEAM = -1e9


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

    Raises:
        VlkitError: values that contradict each other.
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

    def __post_init__(self) -> None:
        for name in ("max_length", "num_beams", "num_return_sequences"):
            if getattr(self, name) < 1:
                raise VlkitError(f"generation: {name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 < self.top_p <= 1:
            raise VlkitError(f"generation: top_p is {self.top_p}; it must be above 0 and at most 1.")
        for name in ("temperature", "repetition_penalty"):
            if getattr(self, name) <= 0:
                raise VlkitError(f"generation: {name} is {getattr(self, name)}; it must be above 0.")
        if self.min_length > self.max_length:
            raise VlkitError(
                f"generation: min_length {self.min_length} is above max_length {self.max_length}; lower it."
            )
        if not self.sample and self.num_return_sequences > self.num_beams:
            raise VlkitError(
                f"generation: {self.num_return_sequences} sequences cannot come from {self.num_beams} beams: raise "
                f"num_beams, or sample."
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


@torch.no_grad()
def generate(
    decoder: TextDecoder,
    images: CrossStates,
    prompt: Tensor,
    eos: int,
    config: GenerationConfig,
    seeds: Tensor | None = None,
) -> Generated:
    """Decode texts for ``B`` images.

    Args:
        decoder: the language model.
        images: keys and values of the images; decoding consumes them (their storage is reused).
        prompt: [B, t] or [1, t] first tokens of every text, [DEC] first.
        eos: id of [SEP].
        config: how.
        seeds: [B] int64 for sampling: what is drawn for an image depends on its seed alone, whatever else is in the
            batch; None: seeds drawn from torch's generator.
    """
    if prompt.shape[1] >= config.max_length:
        raise VlkitError(
            f"generation: the prompt has {prompt.shape[1]} tokens and max_length is {config.max_length}; "
            f"it counts the prompt, so raise it."
        )
    limit = decoder.bert.config.max_position_embeddings
    if config.max_length > limit:
        raise VlkitError(f"generation: max_length is {config.max_length}; this model reads at most {limit} tokens.")
    prompt = prompt.expand(images.count, -1)
    if config.sample or config.num_beams == 1:
        uniform = draw_uniform(seeds, images.count, config) if config.sample else None
        return _Walk(decoder, images, prompt, eos, config, uniform).run()
    return _BeamSearch(decoder, images, prompt, eos, config).run()


def draw_uniform(seeds: Tensor | None, count: int, config: GenerationConfig) -> Tensor:
    """[B, K, max_length] uniform numbers that decide every draw; each image's come from its own seed."""
    if seeds is None:
        seeds = torch.randint(2**62, (count,))
    shape = (config.num_return_sequences, config.max_length)
    generators = (torch.Generator().manual_seed(int(seed)) for seed in seeds)
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


def penalize_repetition(scores: Tensor, used: Tensor, penalty: float) -> Tensor:
    """Make the tokens ``used`` [R, t] less likely in ``scores`` [R, V]: positive ones are divided, negative multiplied
    (log-probabilities, which are negative, are therefore multiplied)."""
    values = scores.gather(1, used)
    return scores.scatter(1, used, torch.where(values < 0, values * penalty, values / penalty))


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


class _Walk:
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
        live, self.row_ids, self.image_of_row = live[by_image], self.row_ids[by_image], self.image_of_row[by_image]
        index = torch.from_numpy(live).to(self.device)
        self.tokens, self.score = self.tokens[index], self.score[index]
        if self.uniform is not None:
            self.uniform = self.uniform[index]
        self.cache.reorder(index)


class _BeamSearch:
    """State of ``A`` images with ``K`` beams each; images leave when no open beam can beat their finished ones."""

    def __init__(
        self, decoder: TextDecoder, images: CrossStates, prompt: Tensor, eos: int, config: GenerationConfig
    ):
        self.decoder, self.images, self.eos, self.config = decoder, images, eos, config
        count, self.length = prompt.shape
        self.beams = config.num_beams
        shape = (count, self.beams)
        self.device = prompt.device
        self.cache = SelfCache(decoder.bert.config.num_hidden_layers, count, config.max_length)
        # The prompt is the same for all beams of an image: one row each until they part.
        logits = decoder.next_logits(prompt, images, self.cache)
        self.logits = logits[:, None].expand(-1, self.beams, -1)
        self.tokens = prompt.new_zeros((*shape, config.max_length))
        self.tokens[:, :, : self.length] = prompt[:, None]
        self.open_scores = torch.full(shape, _NO_BEAM, device=self.device)
        self.open_scores[:, 0] = 0.0
        self.closed_scores = torch.full(shape, -torch.inf, device=self.device)
        self.closed_tokens = torch.zeros_like(self.tokens)
        self.closed_length = torch.zeros(shape, dtype=torch.long, device=self.device)
        self.image_ids = np.arange(count)
        self.sequences: list[list[list[int]]] = [[] for _ in range(count)]
        self.scores: list[list[float]] = [[] for _ in range(count)]

    def run(self) -> Generated:
        while True:
            best, beam = self._extend()
            # A sentence ends when not even its best continuation, at today's length, beats the worst finished one.
            done = self.closed_scores[:, -1] >= best / self.length**self.config.length_penalty
            self.length += 1
            if self.length >= self.config.max_length:
                self._close_open_beams(~done)
                done = torch.ones_like(done)
            rows = self._leave(done.cpu().numpy(), beam)
            if rows is None:
                return Generated(self.sequences, self.scores)
            self.cache.reorder(rows)
            step = self.tokens[:, :, self.length - 1].reshape(-1, 1)
            self.logits = self.decoder.next_logits(step, self.images, self.cache).unflatten(0, (-1, self.beams))

    def _extend(self) -> tuple[Tensor, Tensor]:
        """Choose the next K open beams and close those that end; gives the best sum of log-probabilities of this step
        [A], and the beam that each new one continues [A, K]."""
        log_probs = self._log_probs()
        size = log_probs.shape[-1]
        candidates = (log_probs + self.open_scores[..., None]).flatten(1)
        top, flat = candidates.topk(2 * self.beams)
        beam, token = flat // size, flat % size
        ends = token == self.eos
        # Only an end among the first K closes a hypothesis; the next beams are the K best that do not end.
        closing = ends[:, : self.beams]
        if bool(closing.any()):
            k = self.beams
            scores = (top[:, :k] / self.length**self.config.length_penalty).masked_fill(~closing, -torch.inf)
            self._close(scores, self._gather(self.tokens, beam[:, :k]))
        keep = ends.long().argsort(dim=1, stable=True)[:, : self.beams]
        beam, token = beam.gather(1, keep), token.gather(1, keep)
        self.open_scores = top.gather(1, keep)
        self.tokens = self._gather(self.tokens, beam)
        self.tokens[:, :, self.length] = token
        return top[:, 0], beam

    def _log_probs(self) -> Tensor:
        """[A, K, V], penalties applied."""
        log_probs = self.logits.float().log_softmax(-1)
        if self.config.repetition_penalty != 1.0:
            used = self.tokens[:, :, : self.length].flatten(0, 1)
            flat = penalize_repetition(log_probs.flatten(0, 1), used, self.config.repetition_penalty)
            log_probs = flat.view_as(log_probs)
        if self.length < self.config.min_length:
            log_probs[..., self.eos] = -torch.inf
        return log_probs

    def _close(self, scores: Tensor, tokens: Tensor) -> None:
        """Offer hypotheses [A, K]; the K best ever offered stay, earlier ones at equal scores."""
        merged = torch.cat([self.closed_scores, scores], 1)
        merged, index = merged.sort(dim=1, descending=True, stable=True)
        index = index[:, : self.beams]
        self.closed_scores = merged[:, : self.beams]
        self.closed_tokens = self._gather(torch.cat([self.closed_tokens, tokens], 1), index)
        lengths = torch.full_like(self.closed_length, self.length)
        self.closed_length = torch.cat([self.closed_length, lengths], 1).gather(1, index)

    def _close_open_beams(self, where: Tensor) -> None:
        scores = self.open_scores / self.length**self.config.length_penalty
        self._close(scores.masked_fill(~where[:, None], -torch.inf), self.tokens)

    @staticmethod
    def _gather(x: Tensor, index: Tensor) -> Tensor:
        """Rows ``index`` [A, K] of ``x`` [A, ?, length]."""
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    def _leave(self, done: np.ndarray, beam: Tensor) -> Tensor | None:
        """File the images that are done and drop them. Gives the cache row that each live beam continues, or None when
        nothing is left."""
        for image in np.flatnonzero(done):
            self._file(image)
        live = np.flatnonzero(~done)
        if not len(live):
            return None
        # Before the first step the cache has one row per image, afterwards one per beam.
        per_image = self.cache.rows // len(done)
        first_row = torch.arange(len(done), device=self.device)[:, None] * per_image
        rows = first_row + (beam if per_image > 1 else torch.zeros_like(beam))
        if len(live) < len(done):
            order = moved_order(live.tolist(), len(done))
            self.images = self.images.narrow_(live.tolist())
            self.image_ids = self.image_ids[order]
            index = torch.tensor(order, device=self.device)
            rows = rows[index]
            for name in ("tokens", "open_scores", "closed_scores", "closed_tokens", "closed_length"):
                setattr(self, name, getattr(self, name)[index])
        return rows.reshape(-1)

    def _file(self, image: int) -> None:
        target = self.image_ids[image]
        for k in range(self.config.num_return_sequences):
            length = int(self.closed_length[image, k])
            ids = self.closed_tokens[image, k, :length].tolist()
            self.sequences[target].append(ids if length >= self.config.max_length else [*ids, self.eos])
            self.scores[target].append(float(self.closed_scores[image, k]))
