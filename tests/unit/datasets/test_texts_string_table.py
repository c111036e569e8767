"""What worker processes share: flat buffers whose number does not grow with the data."""

from __future__ import annotations

import gc
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.datasets.image_text import ImageText
from vlkit.datasets.texts import PackedStrings, RowOffsets


def path_only(path, rng):
    """An image processor that reads nothing."""
    return path


@settings(deadline=None)
@given(st.lists(st.text(max_size=8)))
def test_packed_strings_are_a_list(texts):
    packed = PackedStrings(texts)
    assert list(packed) == texts
    for outside in (len(texts), -1):
        with pytest.raises(IndexError):
            packed[outside]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> dict[int, ImageText]:
    folder = tmp_path_factory.mktemp("large")
    opened = {}
    for count in (1_000, 100_000):
        rows = [f"{n // 5:06d}.jpg,a picture of thing {n % 997}" for n in range(count)]
        (folder / f"{count}.csv").write_text("\n".join(["image,caption", *rows]))
        opened[count] = ImageText(str(folder / f"{count}.csv"), image_processor=path_only)
    return opened


def test_a_hundred_thousand_rows_are_a_few_flat_buffers(large):
    sizes = {count: len(pickle.dumps(each)) for count, each in large.items()}
    assert sizes[100_000] < 9_000_000  # 23 bytes of caption, and numbers; as Python objects it would be 25 MB
    objects = []
    for each in large.values():
        seen, waiting = set(), [each.table]
        while waiting:
            item = waiting.pop()
            if id(item) not in seen and not isinstance(item, type):
                seen.add(id(item))
                waiting += gc.get_referents(item)
        objects.append(len(seen))
    assert objects[0] == objects[1] < 200


def test_access_does_the_same_work_in_large_sets(large):
    def calls(each: ImageText) -> int:
        """Functions called, Python's and C's, for 300 samples at places that lie alike in both sets."""
        rng, count = np.random.default_rng(0), 0

        def profile(frame, event, arg):
            nonlocal count
            count += event in ("call", "c_call")

        indices = (np.linspace(0, 1, 300) * (len(each) - 1)).astype(int).tolist()
        each.sample(0, rng)  # what is made once
        sys.setprofile(profile)
        try:
            for index in indices:
                each.sample(index, rng)
        finally:
            sys.setprofile(None)
        return count

    assert calls(large[100_000]) == calls(large[1_000])


def test_row_offsets_show_file_row_and_part():
    offsets = RowOffsets()
    for file, row, part in ((0, 1, 0), (1, 7, 2)):
        offsets.add(file, row, part)
    assert [offsets.show(index, ["a.json", "b.csv"]) for index in range(2)] == ["a.json:1", "b.csv:7.2"]
