"""The cache of self-attention while decoding."""

from __future__ import annotations

from torch import Tensor


class SelfCache:
    """Keys and values of tokens already decoded, preallocated for the whole length.

    Args:
        layers: number of layers.
        rows: sequences (images times beams).
        capacity: most tokens of a sequence.
    """

    def __init__(self, layers: int, rows: int, capacity: int):
        self.rows, self.capacity, self.length = rows, capacity, 0
        self._store: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write [rows, H, t, d] behind what is there; returns all keys and values so far, as views."""
        if self._store[layer] is None:
            shape = (*key.shape[:2], self.capacity, key.shape[3])
            self._store[layer] = (key.new_empty(shape), value.new_empty(shape))
        keys, values = self._store[layer]  # type: ignore[misc]
        end = self.length + key.shape[2]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def filled(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values so far, [rows, H, length, d], as views."""
        keys, values = self._store[layer]  # type: ignore[misc]
        return keys[:, :, : self.length], values[:, :, : self.length]

    def reorder(self, index: Tensor) -> None:
        """Row i becomes what row ``index[i]`` was; the number of rows may change."""
        filled = self.length
        for layer, pair in enumerate(self._store):
            if pair is None:
                continue
            fresh = []
            for old in pair:
                if len(index) == len(old):
                    old[:, :, :filled] = old[:, :, :filled].index_select(0, index)
                    fresh.append(old)
                else:
                    new = old.new_empty((len(index), *old.shape[1:]))
                    new[:, :, :filled] = old[:, :, :filled].index_select(0, index)
                    fresh.append(new)
            self._store[layer] = (fresh[0], fresh[1])
        self.rows = len(index)
