"""Beam search by the rules that the original's captions depend on.

A hypothesis scores the sum of its log-probabilities over its length, and the length counts the prompt but not the final
[SEP]. At each step the 2K best continuations are looked at; [SEP] closes a hypothesis only among the first K.

Shapes: ``A`` images still being decoded, ``K`` beams of an image, ``V`` vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vlkit.models.decoding import Generated, GenerationConfig, penalize_repetition
from vlkit.models.med import CrossStates, SelfCache, TextDecoder, moved_order

# A beam that does not exist yet; added to log-probabilities, it keeps their order.
_NO_BEAM = -1e9


class BeamSearch:
    """State of ``A`` images with ``K`` beams each; images leave when no open beam can beat their finished ones."""

    def __init__(self, decoder: TextDecoder, images: CrossStates, prompt: Tensor, eos: int, config: GenerationConfig):
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
            self._file(int(image))
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
