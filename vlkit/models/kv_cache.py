"""Keys and values that decoding reads again: of the images, and of the tokens decoded so far.

Shapes: ``B`` images, ``P`` image tokens, ``R`` rows (texts being decoded), ``H`` heads, ``t`` tokens of a call, ``C``
most tokens, ``d`` width of a head, ``S`` searches, ``K`` beams of a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass
class ImageKV:
    """Keys and values of images (or of any encoded sequence), projected once and shared by all their texts.

    Args:
        layers: for each layer keys and values, each [B, H, P, d]; of two attentions, one pair after the other.
        mask: [B, P] bool, False where a token must not be seen; None: all are seen.
    """

    layers: list[tuple[Tensor, ...]]
    mask: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of images B."""
        return self.layers[0][0].shape[0]

    def narrow_(self, keep: Sequence[int]) -> ImageKV:
        """Keep the images ``keep`` (ascending) as a view of the front of the storage, in the order of
        :func:`moved_order`: only images behind the front are copied, over those that are dropped. Do not use the
        object itself afterwards."""
        order = moved_order(keep, self.count)
        moves = [(place, image) for place, image in enumerate(order) if place != image]
        for tensor in (t for layer in self.layers for t in layer):
            for place, image in moves:
                tensor[place] = tensor[image]
        n = len(order)
        mask = self.mask[order] if self.mask is not None else None  # a copy: the mask is the caller's
        return ImageKV([tuple(tensor[:n] for tensor in layer) for layer in self.layers], mask)


def moved_order(keep: Sequence[int], count: int) -> list[int]:
    """Return which of ``count`` images is at each place after :meth:`ImageKV.narrow_`: those that can stay do."""
    kept = set(keep)
    front = len(kept)
    late = iter(sorted(i for i in kept if i >= front))
    return [i if i in kept else next(late) for i in range(front)]


class LayerCache(Protocol):
    """What self-attention needs of a cache."""

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [N, H, t, d] and return all that the tokens attend to."""
        ...


class KVCache:
    """Keys and values of decoded tokens, preallocated for the whole length.

    Args:
        layers: number of layers.
        rows: sequences (images times beams).
        capacity: most tokens of a sequence.
    """

    def __init__(self, layers: int, rows: int, capacity: int):
        self.layers, self.rows, self.capacity, self.length = layers, rows, capacity, 0
        self._store: Tensor | None = None  # [layers, 2, R, H, C, d]
        # Which row wrote each entry: two rows with the same writer hold the same.
        self._writer = np.zeros((rows, capacity), dtype=np.int64)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append [R, H, t, d], layer after layer from the first; returns all keys and values so far, as views."""
        if self._store is None:
            self._store = key.new_empty((self.layers, 2, *key.shape[:2], self.capacity, key.shape[3]))
        added = key.shape[2]
        end = self.length + added
        keys, values = self._store[layer].narrow(3, 0, end).unbind()
        keys.narrow(2, self.length, added).copy_(key)
        values.narrow(2, self.length, added).copy_(value)
        if layer == 0:
            self._writer[:, self.length : end] = np.arange(self.rows)[:, None]
        return keys, values

    def filled(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values so far, [R, H, length, d], as views."""
        assert self._store is not None
        keys, values = self._store[layer, :, :, :, : self.length]
        return keys, values

    def reorder(self, index: Sequence[int] | np.ndarray) -> None:
        """Replace row i by row ``index[i]``; the number of rows may change.

        Only rows that change are copied, from the first token that differs: beams share most of their tokens.
        """
        rows = np.asarray(index, dtype=np.int64)
        writer = self._writer[rows]
        if self._store is not None:
            if len(rows) > self.rows:
                self._grow(rows)
            else:
                differs = writer[:, : self.length] != self._writer[: len(rows), : self.length]
                moved = np.flatnonzero(differs.any(1))
                if len(moved):
                    self._copy(moved, rows[moved], differs[moved].argmax(1))
                self._store = self._store[:, :, : len(rows)]
        self._writer, self.rows = writer, len(rows)

    def _grow(self, rows: np.ndarray) -> None:
        assert self._store is not None
        store, index = self._store, torch.from_numpy(rows).to(self._store.device)
        self._store = store.new_empty((*store.shape[:2], len(rows), *store.shape[3:]))
        self._store[..., : self.length, :] = store[..., : self.length, :].index_select(2, index)

    def _copy(self, targets: np.ndarray, sources: np.ndarray, begins: np.ndarray) -> None:
        """Copy the tokens from ``begins`` on of rows ``sources`` to rows ``targets``."""
        assert self._store is not None
        if self._store.device.type != "cpu":
            filled = self._store[..., begins.min() : self.length, :]
            source, target = (torch.from_numpy(each).to(self._store.device) for each in (sources, targets))
            filled.index_copy_(2, target, filled.index_select(2, source))
            return
        # On CPU copies of whole rows are many times faster than gathers along an inner dimension.
        overlap = not set(sources.tolist()).isdisjoint(targets.tolist())
        parts = [
            self._store[:, :, source, :, begin : self.length]
            for source, begin in zip(sources.tolist(), begins.tolist())
        ]
        for target, begin, part in zip(targets, begins, [part.clone() for part in parts] if overlap else parts):
            self._store[:, :, target, :, begin : self.length] = part


def place_rows(parents: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the rows of new beams such that as few rows of a cache as possible change.

    Args:
        parents: [S, K] which of its search's K beams each new beam continues.
        places: [S, K] the place, 0 <= place < K, of each old beam's row among the K rows of its search.

    Returns:
        [S, K] the place of each new beam: its parent's for the first child of a parent, and for the others the places
        of beams without children.
    """
    placed = np.empty_like(places)
    for mine, wanted in zip(placed, np.take_along_axis(places, parents, 1).tolist()):
        free = sorted(set(range(len(wanted))).difference(wanted))
        taken = set()
        for beam, place in enumerate(wanted):
            mine[beam] = free.pop() if place in taken else place
            taken.add(place)
    return placed
