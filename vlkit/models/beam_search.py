"""Beam search by the rules that the original's captions depend on.

A hypothesis scores the sum of its log-probabilities over its length, and the length counts the prompt but not the final
[SEP]. At each step the 2K best continuations are looked at; [SEP] closes a hypothesis only among the first K.

Diverse beam search (Vijayakumar et al., arXiv:1610.02424) is several searches for an image, one after the other in each
step: a word costs the more the more beams of earlier groups have taken it in this step.

Shapes: ``A`` images still being decoded, ``G`` groups of an image, ``S = A * G`` searches, ``K`` beams of a search,
``V`` vocabulary.
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
    """State of ``A`` images with ``G`` searches of ``K`` beams; an image leaves when no open beam of a search can beat
    the finished ones of that search."""

    def __init__(self, decoder: TextDecoder, images: CrossStates, prompt: Tensor, eos: int, config: GenerationConfig):
        self.decoder, self.images, self.eos, self.config = decoder, images, eos, config
        count, self.length = prompt.shape
        self.groups, self.beams = config.num_beam_groups, config.num_beams // config.num_beam_groups
        shape = (count * self.groups, self.beams)
        self.device = prompt.device
        self.cache = SelfCache(decoder.bert.config.num_hidden_layers, count, config.max_length)
        # The prompt is the same for all beams of an image: one row each until they part.
        logits = decoder.next_logits(prompt, images, self.cache)
        self.logits = logits[:, None, None].expand(-1, self.groups, self.beams, -1).flatten(0, 1)
        self.tokens = prompt.new_zeros((*shape, config.max_length))
        self.tokens[:, :, : self.length] = prompt.repeat_interleave(self.groups, 0)[:, None]
        self.open_scores = torch.full(shape, _NO_BEAM, device=self.device)
        self.open_scores[:, 0] = 0.0
        self.closed_scores = torch.full(shape, -torch.inf, device=self.device)
        self.closed_tokens = torch.zeros_like(self.tokens)
        self.closed_length = torch.zeros(shape, dtype=torch.long, device=self.device)
        self.done = torch.zeros(shape[0], dtype=torch.bool, device=self.device)
        self.image_ids = np.arange(count)
        self.sequences: list[list[list[int]]] = [[] for _ in range(count)]
        self.scores: list[list[float]] = [[] for _ in range(count)]

    def run(self) -> Generated:
        while True:
            best, beam = self._extend()
            # A sentence ends when not even its best continuation, at today's length, beats the worst finished one.
            self.done |= self.closed_scores[:, -1] >= best / self.length**self.config.length_penalty
            self.length += 1
            if self.length >= self.config.max_length:
                self._close_open_beams(~self.done)
                self.done.fill_(True)
            rows = self._leave(self.done.view(-1, self.groups).all(1).cpu().numpy(), beam)
            if rows is None:
                return Generated(self.sequences, self.scores)
            self.cache.reorder(rows)
            step = self.tokens[:, :, self.length - 1].reshape(-1, 1)
            self.logits = self.decoder.next_logits(step, self.images, self.cache).unflatten(0, (-1, self.beams))

    def _extend(self) -> tuple[Tensor, Tensor]:
        """Choose the next K open beams and close those that end; gives the best sum of log-probabilities of this step
        [S], and the beam that each new one continues [S, K]."""
        log_probs = self._log_probs()
        size = log_probs.shape[-1]
        if self.groups == 1:
            top, flat = self._best(log_probs, self.open_scores)
        else:
            top, flat = self._best_of_groups(log_probs)
        beam, token = flat // size, flat % size
        ends = token == self.eos
        # Only an end among the first K closes a hypothesis; the next beams are the K best that do not end.
        closing = ends[:, : self.beams] & ~self.done[:, None]
        if bool(closing.any()):
            k = self.beams
            scores = (top[:, :k] / self.length**self.config.length_penalty).masked_fill(~closing, -torch.inf)
            self._close(scores, self._gather(self.tokens, beam[:, :k]))
        keep = self._open_first(ends)
        beam, token = beam.gather(1, keep), token.gather(1, keep)
        self.open_scores = top.gather(1, keep)
        self.tokens = self._gather(self.tokens, beam)
        self.tokens[:, :, self.length] = token
        return top[:, 0], beam

    def _best(self, log_probs: Tensor, open_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of log-probabilities of the 2K best continuations [., 2K], and beam * V + token of each."""
        return (log_probs + open_scores[..., None]).flatten(1).topk(2 * self.beams)

    def _best_of_groups(self, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """The same where words that earlier groups take in this step cost :attr:`GenerationConfig.diversity_penalty`
        for each beam that takes them."""
        size = log_probs.shape[-1]
        by_group, scores = (x.unflatten(0, (-1, self.groups)) for x in (log_probs, self.open_scores))
        searching = (~self.done).view(-1, self.groups, 1).to(log_probs)
        taken = log_probs.new_zeros(len(by_group), size)
        found = []
        for group in range(self.groups):
            cost = self.config.diversity_penalty * taken[:, None]
            top, flat = self._best(by_group[:, group] - cost, scores[:, group])
            token = flat % size
            next_tokens = token.gather(1, self._open_first(token == self.eos))
            taken = taken.scatter_add(1, next_tokens, searching[:, group].expand_as(next_tokens))
            found.append((top, flat))
        return tuple(torch.stack(each, 1).flatten(0, 1) for each in zip(*found))  # type: ignore[return-value]

    def _open_first(self, ends: Tensor) -> Tensor:
        """Places [., K] of the K best continuations that do not end."""
        return ends.long().argsort(dim=1, stable=True)[:, : self.beams]

    def _log_probs(self) -> Tensor:
        """[S, K, V], penalties applied."""
        log_probs = self.logits.float().log_softmax(-1)
        if self.config.repetition_penalty != 1.0:
            used = self.tokens[:, :, : self.length].flatten(0, 1)
            flat = penalize_repetition(log_probs.flatten(0, 1), used, self.config.repetition_penalty)
            log_probs = flat.view_as(log_probs)
        if self.length < self.config.min_length:
            log_probs[..., self.eos] = -torch.inf
        return log_probs

    def _close(self, scores: Tensor, tokens: Tensor) -> None:
        """Offer hypotheses [S, K]; the K best ever offered stay, earlier ones at equal scores."""
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
        """Rows ``index`` [S, K] of ``x`` [S, ?, length]."""
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
        first_row = torch.arange(len(done), device=self.device)[:, None, None] * per_image
        of_group = torch.arange(self.groups, device=self.device)[:, None] * self.beams
        beam = beam.unflatten(0, (-1, self.groups))
        rows = first_row + (of_group + beam if per_image > 1 else torch.zeros_like(beam))
        if len(live) < len(done):
            order = moved_order(live.tolist(), len(done))
            self.images = self.images.narrow_(live.tolist())
            self.image_ids = self.image_ids[order]
            index = torch.tensor(order, device=self.device)
            rows = rows[index]
            for name in ("tokens", "open_scores", "closed_scores", "closed_tokens", "closed_length", "done"):
                setattr(self, name, getattr(self, name).unflatten(0, (-1, self.groups))[index].flatten(0, 1))
        return rows.reshape(-1)

    def _file(self, image: int) -> None:
        target = self.image_ids[image]
        scores, lengths, tokens = (
            x.unflatten(0, (-1, self.groups))[image].flatten(0, 1)
            for x in (self.closed_scores, self.closed_length, self.closed_tokens)
        )
        best = scores.sort(descending=True, stable=True)[1] if self.groups > 1 else range(self.beams)
        for k in best[: self.config.num_return_sequences]:
            length = int(lengths[k])
            ids = tokens[k, :length].tolist()
            self.sequences[target].append(ids if length >= self.config.max_length else [*ids, self.eos])
            self.scores[target].append(float(scores[k]))
