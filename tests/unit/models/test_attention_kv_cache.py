from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.models.attention import KVCache, place_rows


class PlainCache:
    """Copies everything, each time."""

    def __init__(self, rows: int):
        self.keys = torch.zeros(rows, 1, 0, 1)

    def append(self, key):
        self.keys = torch.cat([self.keys, key], 2)

    def reorder(self, index):
        self.keys = self.keys[torch.as_tensor(index, dtype=torch.long)]


@settings(deadline=None, max_examples=150)
@given(data=st.data(), rows=st.integers(1, 5))
def test_rows_hold_what_they_would_if_all_was_copied(data, rows):
    cache, plain = KVCache(2, rows, 12), PlainCache(rows)
    for step in range(data.draw(st.integers(1, 8))):
        key = torch.arange(float(rows))[:, None, None, None] + 100 * step
        plain.append(key)
        for layer in range(2):
            keys, values = cache.append(layer, key + layer, -key - layer)
            assert torch.equal(keys, plain.keys + layer)
            assert torch.equal(values, -plain.keys - layer)
        cache.length += 1
        # The rows become fewer or others, and more only once.
        most = 6 if step == 0 else rows
        index = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=most))
        cache.reorder(index)
        plain.reorder(index)
        rows = len(index)
        assert cache.rows == rows
        assert torch.equal(cache.filled(1)[0], plain.keys + 1)


def test_only_what_differs_is_copied():
    cache = KVCache(1, 3, 6)
    for step in range(4):
        key = torch.full((3, 1, 1, 1), float(step)) + torch.arange(3.0)[:, None, None, None] / 10
        cache.append(0, key, key)
        cache.length += 1
        if step == 1:
            cache.reorder([0, 0, 2])
    keys = cache.filled(0)[0]
    keys[0, 0, 0] = 77.0  # rows 0 and 1 were the same there
    cache.reorder([0, 0, 2])
    assert cache.filled(0)[0][1, 0, :, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    cache.reorder([2, 1, 0])
    assert cache.filled(0)[0][2, 0, 0, 0] == 77.0


@settings(deadline=None)
@given(data=st.data(), searches=st.integers(1, 4), beams=st.integers(1, 5))
def test_beams_stay_where_their_parents_are(data, searches, beams):
    parents = np.array(
        data.draw(st.lists(st.lists(st.integers(0, beams - 1), min_size=beams, max_size=beams),
                           min_size=searches, max_size=searches))
    )  # fmt: skip
    places = np.array([data.draw(st.permutations(range(beams))) for _ in range(searches)])
    placed = place_rows(parents, places)
    for mine, wanted, old in zip(placed, parents, places):
        assert sorted(mine) == list(range(beams))
        for parent in set(wanted):
            children = [beam for beam in range(beams) if wanted[beam] == parent]
            assert mine[children[0]] == old[parent]
