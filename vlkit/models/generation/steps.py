"""Decode step by step: finished images leave the batch.

Shapes: ``A`` images still being decoded, ``K`` open texts of an image, ``R = A * K`` rows, ``S`` searches (groups of
beams), ``L`` most tokens of a text, ``V`` vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from vlkit.contracts import GenerationConfig
from vlkit.models.attention import ImageKV, KVCache, moved_order, place_rows
from vlkit.models.med import TextDecoder


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
    def empty(cls, count: int) -> Generated:
        """Create the result of ``count`` images, to be filled by :meth:`put`."""
        return cls([[]] * count, [[]] * count)

    def put(self, images: Iterable[int], texts: Generated) -> None:
        """Store ``texts`` as those of ``images``, one entry for each."""
        for image, sequences, scores in zip(images, texts.sequences, texts.scores):
            self.sequences[image], self.scores[image] = sequences, scores


StateT = TypeVar("StateT", bound="State")


@dataclass
class State:
    """Open and finished texts as tensors, whose first dimension has the same number of entries for every image, one
    image after the other.

    Args:
        tokens: [..., L] of the open texts.
    """

    tokens: Tensor

    def tensors(self) -> list[Tensor]:
        """Return all fields in their order."""
        return [getattr(self, field.name) for field in fields(self)]

    def select(self: StateT, images: Tensor, count: int) -> StateT:
        """Copy the entries of ``images`` out of those of ``count`` images."""
        return type(self)(*(x.unflatten(0, (count, -1))[images].flatten(0, 1) for x in self.tensors()))


class Method(ABC, Generic[StateT]):
    """A decoding method: how texts are extended, and which are the result.

    Args:
        config: how to decode.
        eos: id of [SEP].
        host_sync: allow to read values back from the device in order to skip work.

    Attributes:
        beams: K of one search; its beams may exchange their rows of the cache. 0: rows stay where they are.
    """

    beams = 0

    def __init__(self, config: GenerationConfig, eos: int, host_sync: bool = True):
        self.config, self.eos, self.host_sync = config, eos, host_sync

    @abstractmethod
    def start(self, prompt: Tensor) -> StateT:
        """Begin texts with ``prompt`` [A, t]."""

    @abstractmethod
    def advance(
        self, state: StateT, logits: Tensor, length: Tensor, places: Tensor | None = None
    ) -> tuple[StateT, Tensor]:
        """Extend the open texts by one token.

        Args:
            state: before the step.
            logits: [R, V] of the next token of the open texts.
            length: [1] int64, tokens that the open texts have.
            places: [S, beams] which row of its search's ``logits`` each beam has; None: they are in order.

        Returns:
            The state after the step, and [A, K] which open text of its image each one continues.
        """

    @abstractmethod
    def finish(self, state: StateT, length: Tensor) -> StateT:
        """End the open texts at the greatest ``length`` [1]."""

    @abstractmethod
    def finished(self, state: StateT) -> Tensor:
        """Return [A] bool: images that no further step changes."""

    @abstractmethod
    def results(self, state: StateT) -> Generated:
        """Return the final texts of all images in ``state``."""


def decode_steps(decoder: TextDecoder, images: ImageKV, prompt: Tensor, method: Method[Any]) -> Generated:
    """Decode with tensors of the images that are left.

    Args:
        decoder: the language model.
        images: keys and values; consumed.
        prompt: [A, t].
        method: how texts are extended.
    """
    return _Steps(decoder, images, prompt, method).run()


class _Steps:
    """The batch of :func:`decode_steps`."""

    def __init__(self, decoder: TextDecoder, images: ImageKV, prompt: Tensor, method: Method[Any]):
        self.decoder, self.images, self.method = decoder, images, method
        self.state = method.start(prompt)
        count, self.length = prompt.shape
        self.image_ids = np.arange(count)
        self.found = Generated.empty(count)
        # The prompt is read once per image and copied for each of its texts.
        rows, most = method.config.rows, method.config.max_length
        self.cache = KVCache(decoder.bert.config.num_hidden_layers, count, most)
        self.logits = decoder.next_logits(prompt, images, self.cache)
        if rows > 1:
            self.logits = self.logits.repeat_interleave(rows, 0)
            self.cache.reorder(np.repeat(np.arange(count), rows))
        # Rows of the cache stay where the fewest are copied: the row of each beam within its search.
        searches = count * rows // method.beams if method.beams else 0
        self.places = np.tile(np.arange(method.beams), (searches, 1))

    def run(self) -> Generated:
        """Decode until all images are finished."""
        method, device = self.method, self.logits.device
        while True:
            length = torch.tensor([self.length], device=device)
            places = torch.from_numpy(self.places).to(device) if method.beams else None
            self.state, parents = method.advance(self.state, self.logits, length, places)
            self.length += 1
            if self.length >= method.config.max_length:
                self.state = method.finish(self.state, length + 1)
            if method.beams:
                self._place(parents.cpu().numpy())
            done = method.finished(self.state).cpu().numpy()
            if done.any():
                self._leave(done)
            if not len(self.image_ids):
                return self.found
            self.logits = self.decoder.next_logits(self._last_tokens(), self.images, self.cache)

    def _last_tokens(self) -> Tensor:
        """Return [R, 1] the last token of each row of the cache."""
        last = self.state.tokens[..., self.length - 1]
        if self.method.beams:
            last = last.gather(1, torch.from_numpy(np.argsort(self.places, axis=1)).to(last.device))
        return last.view(-1, 1)

    def _place(self, parents: np.ndarray) -> None:
        """Move rows of the cache to the beams that continue ``parents`` [A, K] of their images."""
        beams = self.method.beams
        parents = parents.reshape(self.places.shape) % beams
        placed = place_rows(parents, self.places)
        rows = np.empty_like(placed)
        np.put_along_axis(rows, placed, np.take_along_axis(self.places, parents, 1), 1)
        self.cache.reorder((rows + np.arange(len(rows))[:, None] * beams).reshape(-1))
        self.places = placed

    def _leave(self, done: np.ndarray) -> None:
        """Store the texts of images that are ``done`` [A] and drop these images."""
        count, device = len(done), self.logits.device
        leaving = np.flatnonzero(done)
        state = self.state.select(torch.from_numpy(leaving).to(device), count)
        self.found.put(self.image_ids[leaving], self.method.results(state))
        live = np.flatnonzero(~done)
        order = np.asarray(moved_order(live.tolist(), count), dtype=np.int64)
        self.image_ids = self.image_ids[order]
        if len(live):
            self.images = self.images.narrow_(live.tolist())
            self.state = self.state.select(torch.from_numpy(order).to(device), count)
            if self.method.beams:
                self.places = self.places.reshape(count, -1)[order].reshape(-1, self.method.beams)
            rows = np.arange(count * self.method.config.rows).reshape(count, -1)
            self.cache.reorder(rows[order].reshape(-1))


# Scores are searched in parts of this size.
_PART = 64


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` largest of the last dimension, descending, and their indices.

    Faster than ``topk`` for many scores. Of equal scores any may be returned.
    """
    size = scores.shape[-1]
    parts = size // _PART
    if parts <= 2 * count:
        return scores.topk(count)
    # The largest are in the parts with the largest maxima, or behind the last whole part.
    cut = parts * _PART
    whole = scores[..., :cut].unflatten(-1, (parts, _PART))
    chosen = whole.amax(-1).topk(count, sorted=False)[1]
    places = (chosen[..., None] * _PART + torch.arange(_PART, device=scores.device)).flatten(-2)
    behind = torch.arange(cut, size, device=scores.device).expand(*scores.shape[:-1], -1)
    places = torch.cat([places, behind], -1)
    values, index = scores.gather(-1, places).topk(count)
    return values, places.gather(-1, index)


def penalize_used(scores: Tensor, tokens: Tensor, length: Tensor, penalty: float) -> Tensor:
    """Apply :func:`penalize_repetition` to ``scores`` [..., V] for the first ``length`` [1] of ``tokens`` [..., L]."""
    behind = torch.arange(tokens.shape[-1], device=tokens.device) >= length
    used = torch.where(behind, tokens[..., :1], tokens)  # naming one twice changes nothing
    return penalize_repetition(scores, used, penalty)


def penalize_repetition(scores: Tensor, used: Tensor, penalty: float) -> Tensor:
    """Make the tokens ``used`` [..., t] less likely in ``scores`` [..., V]: positive ones are divided, negative
    multiplied (log-probabilities, which are negative, are therefore multiplied)."""
    values = scores.gather(-1, used)
    return scores.scatter(-1, used, torch.where(values < 0, values * penalty, values / penalty))
