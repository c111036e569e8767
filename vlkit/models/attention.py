"""Attention, with the kernel that is fastest for the device and the shapes.

Shapes: ``N`` sequences, ``H`` heads, ``L`` queries, ``S`` keys, ``d`` width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Compute softmax attention, scaled by ``1 / sqrt(d)``.

    Args:
        query: [N, H, L, d].
        key: [N, H, S, d].
        value: [N, H, S, d].
        mask: bool, broadcastable to [N, H, L, S]; False keys are not attended to. Not with ``causal``.
        causal: the queries are at the last positions of the keys: query i attends to keys 0..S-L+i.
        dropout: probability of dropping an attention weight; pass 0 outside of training.

    Returns:
        [N, H, L, d].
    """
    way = _fastest(query, dropout)
    if way == "plain":
        return _attend_plainly(query, key, value, mask, causal, dropout)
    if way == "parts":
        return _attend_in_parts(query, key, value, mask, causal)
    if causal and query.shape[-2] != key.shape[-2]:  # the kernel's own counts from the first key
        mask, causal = _causal_mask(query, key), False
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal)


# Up to this number of queries, the set-up of the fused kernel dominates on a CPU.
_FEW_QUERIES = 16


def _fastest(query: Tensor, dropout: float) -> Literal["fused", "plain", "parts"]:
    """Return the fastest way, on a CPU as measured with torch 2.15 on Zen 4.

    In fp32 it is the fused kernel. In bf16 that reaches a third of the speed of matrix products, and in its backward
    pass a tenth of that; there, and for the few queries of a decoding step, products over contiguous keys are faster.
    """
    if query.device.type != "cpu":
        return "fused"
    if torch.is_grad_enabled() or dropout:
        return "plain" if query.dtype == torch.bfloat16 else "fused"
    return "parts" if query.dtype == torch.bfloat16 or query.shape[-2] <= _FEW_QUERIES else "fused"


# Size of the scores of one part, which then stay in the cache.
_PART_BYTES = 2**22
# In bf16 a product of 577 rows is slower than one of 608: rows are padded to a multiple of this, if few are added.
_ROWS, _MOST_ADDED = 32, 1 / 16


def _attend_in_parts(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Compute attention without gradient, a few heads at a time."""
    (count, heads, queries, width), keys = query.shape, key.shape[-2]
    if causal:
        mask = _causal_mask(query, key)
    if mask is not None:
        hidden = (~mask).expand(count, heads, *mask.shape[-2:]).flatten(0, 1)
    rows = -(-queries // _ROWS) * _ROWS
    if query.dtype == torch.bfloat16 and queries < rows <= queries * (1 + _MOST_ADDED):
        query = F.pad(query, (0, 0, 0, rows - queries))
    else:
        rows = queries
    query, key, value = (x.reshape(-1, x.shape[2], width) for x in (query, key, value))
    step = max(_PART_BYTES // (rows * keys * query.dtype.itemsize), 1)
    step += step % 2  # an even number of heads: threads share them
    total = count * heads
    out = query.new_empty(query.shape)
    scores = query.new_empty(min(step, total), rows, keys)
    for start in range(0, total, step):
        part = slice(start, start + step)
        # The few queries of a decoding step are one part: slices would take as long as the products.
        whole = (query, key, value, out, scores)
        q, k, v, to, own = whole if step >= total else (*(x[part] for x in whole[:4]), scores[: total - start])
        torch.baddbmm(own, q, k.transpose(1, 2), beta=0, alpha=width**-0.5, out=own)
        if mask is not None:
            own[:, :queries].masked_fill_(hidden[part], torch.finfo(own.dtype).min)
        torch.softmax(own, -1, out=own)
        torch.bmm(own, v, out=to)
    return (out if rows == queries else out[:, :queries]).view(count, heads, queries, width)


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """Compute attention with gradient or dropout."""
    if causal:
        mask = _causal_mask(query, key)
    # Autocast would compute the softmax in fp32 and keep that for the backward pass; the kernel itself adds up in fp32.
    with torch.autocast(query.device.type, enabled=False):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if dropout:
            weights = F.dropout(weights, dropout)
        return weights @ value


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    queries, keys = query.shape[-2], key.shape[-2]
    return torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril_(keys - queries)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Map [N, L, D] to [N, H, L, d], a view."""
    return x.view(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """Map [N, H, L, d] to [N, L, D]."""
    return x.transpose(-3, -2).flatten(-2)


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
