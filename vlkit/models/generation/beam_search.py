"""Beam search.

The score of a hypothesis is the sum of its log-probabilities over its length, which counts the prompt but not the final
[SEP]. Each step considers the 2K best continuations; [SEP] closes a hypothesis only among the first K.

Diverse beam search (Vijayakumar et al., arXiv:1610.02424) runs several searches for an image, one after the other in
each step: a word costs more for each beam of an earlier group that has taken it in this step.

Shapes: ``A`` images, ``G`` groups of an image, ``S = A * G`` searches, ``K`` beams of a search, ``L`` most tokens of a
text, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlkit.contracts import GenerationConfig
from vlkit.models.generation.steps import Generated, Method, State, largest, penalize_used

# A beam that does not exist yet; added to log-probabilities, it keeps their order.
_NO_BEAM = -1e9


@dataclass
class BeamState(State):
    """State of S searches.

    Args:
        tokens: [S, K, L] of the open beams.
        open_scores: [S, K] sums of their log-probabilities.
        closed_scores: [S, K] of the best hypotheses that ended, best first; -inf where there is none.
        closed_tokens: [S, K, L] their tokens.
        closed_length: [S, K] their lengths.
        done: [S] no open beam can beat those that ended.
    """

    open_scores: Tensor
    closed_scores: Tensor
    closed_tokens: Tensor
    closed_length: Tensor
    done: Tensor


class BeamSearch(Method[BeamState]):
    """Beam search, also in groups.

    Args:
        config, eos, host_sync: see :class:`~vlkit.models.generation.steps.Method`.
        device: of the states.
    """

    def __init__(self, config: GenerationConfig, eos: int, device: torch.device, host_sync: bool = True):
        super().__init__(config, eos, host_sync)
        self.groups, self.beams = config.num_beam_groups, config.num_beams // config.num_beam_groups
        lengths = torch.arange(config.max_length + 1, dtype=torch.float64)
        self._norms = (lengths**config.length_penalty).float().to(device)

    def start(self, prompt: Tensor) -> BeamState:
        """Begin searches with ``prompt`` [A, t], one beam each."""
        count, length = prompt.shape
        shape = (count * self.groups, self.beams)
        tokens = prompt.new_zeros((*shape, self.config.max_length))
        tokens[:, :, :length] = prompt.repeat_interleave(self.groups, 0)[:, None]
        open_scores = torch.full(shape, _NO_BEAM, device=prompt.device)
        open_scores[:, 0] = 0.0
        return BeamState(
            tokens=tokens,
            open_scores=open_scores,
            closed_scores=torch.full(shape, -torch.inf, device=prompt.device),
            closed_tokens=torch.zeros_like(tokens),
            closed_length=torch.zeros(shape, dtype=torch.long, device=prompt.device),
            done=torch.zeros(shape[0], dtype=torch.bool, device=prompt.device),
        )

    def advance(
        self, state: BeamState, logits: Tensor, length: Tensor, places: Tensor | None = None
    ) -> tuple[BeamState, Tensor]:
        """See :meth:`~vlkit.models.generation.steps.Method.advance`."""
        top, beam, token = self._continuations(state, logits, length, places)
        ends = token == self.eos
        norm, k = self._norms.index_select(0, length), self.beams
        # Only an end among the first K closes a hypothesis; the next beams are the K best that do not end.
        closing = ends[:, :k] & ~state.done[:, None]
        closed = state
        if not self.host_sync or bool(closing.any()):
            closed = _close(state, (top[:, :k] / norm).masked_fill(~closing, -torch.inf), beam[:, :k], length)
        keep = self._open_first(ends)
        beam, token = beam.gather(1, keep), token.gather(1, keep)
        first_of_group = torch.arange(self.groups, device=beam.device)[:, None] * k
        parents = (beam.unflatten(0, (-1, self.groups)) + first_of_group).flatten(1)
        return BeamState(
            tokens=_gather(state.tokens, beam).index_copy_(2, length, token[:, :, None]),
            open_scores=top.gather(1, keep),
            closed_scores=closed.closed_scores,
            closed_tokens=closed.closed_tokens,
            closed_length=closed.closed_length,
            # A search ends when its best continuation, at the current length, does not beat the worst closed one.
            done=state.done | (closed.closed_scores[:, -1] >= top[:, 0] / norm),
        ), parents

    def finish(self, state: BeamState, length: Tensor) -> BeamState:
        """Offer the open beams of unfinished searches as hypotheses."""
        scores = (state.open_scores / self._norms.index_select(0, length)).masked_fill(state.done[:, None], -torch.inf)
        beam = torch.arange(self.beams, device=scores.device).expand_as(scores)
        closed = _close(state, scores, beam, length)
        closed.done = torch.ones_like(state.done)
        return closed

    def _continuations(
        self, state: BeamState, logits: Tensor, length: Tensor, places: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the 2K best continuations, [S, 2K] each: sums of log-probabilities, beams, tokens."""
        logits = logits.unflatten(0, (-1, self.beams))
        if places is not None and self.config.repetition_penalty != 1.0:
            logits, places = _gather(logits, places), None
        log_probs = self._log_probs(state, logits, length)
        if self.groups > 1:
            return self._of_groups(log_probs, state, places)
        return self._best(log_probs, state.open_scores, places)

    def _best(self, log_probs: Tensor, open_scores: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        # The score of a beam is the same for all its next tokens, so its own 2K best are enough.
        values, tokens = largest(log_probs, min(2 * self.beams, log_probs.shape[-1]))
        if places is not None:
            values, tokens = _gather(values, places), _gather(tokens, places)
        top, flat = (values + open_scores[..., None]).flatten(1).topk(2 * self.beams)
        return top, flat // values.shape[-1], tokens.flatten(1).gather(1, flat)

    def _of_groups(self, log_probs: Tensor, state: BeamState, places: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same for groups: a word costs :attr:`GenerationConfig.diversity_penalty` for each beam of an
        earlier group that takes it in this step."""
        by_group, scores = (x.unflatten(0, (-1, self.groups)) for x in (log_probs, state.open_scores))
        of_group = places.unflatten(0, (-1, self.groups)) if places is not None else None
        searching = (~state.done).view(-1, self.groups, 1).to(log_probs)
        taken = log_probs.new_zeros(len(by_group), log_probs.shape[-1])
        found = []
        for group in range(self.groups):
            cost = self.config.diversity_penalty * taken[:, None]
            where = of_group[:, group] if of_group is not None else None
            top, beam, token = self._best(by_group[:, group] - cost, scores[:, group], where)
            next_tokens = token.gather(1, self._open_first(token == self.eos))
            taken = taken.scatter_add(1, next_tokens, searching[:, group].expand_as(next_tokens))
            found.append((top, beam, token))
        top, beam, token = (torch.stack(each, 1).flatten(0, 1) for each in zip(*found))
        return top, beam, token

    def _open_first(self, ends: Tensor) -> Tensor:
        """Return indices [., K] of the K best continuations that do not end."""
        return ends.long().argsort(dim=1, stable=True)[:, : self.beams]

    def _log_probs(self, state: BeamState, logits: Tensor, length: Tensor) -> Tensor:
        """Return [S, K, V] log-probabilities after penalties."""
        log_probs = logits.float().log_softmax(-1)
        if self.config.repetition_penalty != 1.0:
            log_probs = penalize_used(log_probs, state.tokens, length, self.config.repetition_penalty)
        if self.config.min_length > 0:
            too_short = length < self.config.min_length
            log_probs[..., self.eos].masked_fill_(too_short, -torch.inf)
        return log_probs

    def finished(self, state: BeamState) -> Tensor:
        """Return [A] images whose searches are all done."""
        return state.done.view(-1, self.groups).all(1)

    def results(self, state: BeamState) -> Generated:
        """See :meth:`~vlkit.models.generation.steps.Method.results`; best first."""
        scores, lengths, tokens = (
            x.unflatten(0, (-1, self.groups)).flatten(1, 2).cpu()
            for x in (state.closed_scores, state.closed_length, state.closed_tokens)
        )
        best = scores.sort(dim=1, descending=True, stable=True)[1][:, : self.config.num_return_sequences]
        scores, lengths, tokens = scores.gather(1, best), lengths.gather(1, best), _gather(tokens, best)
        full = self.config.max_length
        sequences = [
            [ids[:length] if length >= full else [*ids[:length], self.eos] for ids, length in zip(texts, sizes)]
            for texts, sizes in zip(tokens.tolist(), lengths.tolist())
        ]
        return Generated(sequences, scores.tolist())


def _close(state: BeamState, scores: Tensor, beam: Tensor, length: Tensor) -> BeamState:
    """Offer the open beams ``beam`` [S, K] as hypotheses of ``length`` [1] with ``scores`` [S, K]. The K best ever
    offered stay; of equal scores the earlier."""
    k = scores.shape[1]
    merged, index = torch.cat([state.closed_scores, scores], 1).sort(dim=1, descending=True, stable=True)
    index = index[:, :k]
    tokens = torch.cat([state.closed_tokens, _gather(state.tokens, beam)], 1)
    lengths = torch.cat([state.closed_length, length.expand_as(state.closed_length)], 1)
    return BeamState(
        state.tokens, state.open_scores, merged[:, :k], _gather(tokens, index), lengths.gather(1, index), state.done
    )


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """Gather rows ``index`` [S, K] of ``x`` [S, ?, width]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
