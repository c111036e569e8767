from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("cv2", reason="the reference augments with OpenCV: pip install opencv-python-headless")

from benchmarks.compare import table
from benchmarks.data import data_rows, jpeg, picture
from benchmarks.original import augment
from tests.unit.processors.pictures import noise
from vlkit.processors.image import BlipImageTrain
from vlkit.processors.randaugment import BLIP_AUGS, arguments, operate


def test_all_ways_give_what_the_original_gives():
    rows = list(data_rows("tiny", repeat=1))
    assert len(rows) == 4
    assert all(row.outputs_equal for row in rows)
    assert all(row.wanted is None for row in rows)
    assert "images/s per core" in rows[0].note


def test_a_wrong_transform_is_noticed(monkeypatch):
    monkeypatch.setattr("benchmarks.data.BlipImageTrain.__call__", lambda self, image, rng: torch.zeros(3, 32, 32))
    assert not any(row.outputs_equal for row in data_rows("tiny", repeat=1))


def test_a_clock_that_sees_no_time_pass_gives_figures_all_the_same(monkeypatch):
    """A fast machine: the run takes less than the clock can tell, and less than figures are rounded to."""
    monkeypatch.setattr("benchmarks.compare.time.perf_counter", lambda: 0.0)
    rows = list(data_rows("tiny", repeat=1))
    assert [row.ratio for row in rows] == [1.0] * 4
    assert "0.000" in table(rows)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(3, 60),
    width=st.integers(3, 60),
    name=st.sampled_from(BLIP_AUGS),
    level=st.floats(0, 10),
    seed=st.integers(0, 999),
    dim=st.integers(1, 8),
)
def test_operations_equal_opencvs(height, width, name, level, seed, dim):
    image = (noise(height, width, seed) // dim + (17 if dim > 1 else 0)).astype(np.uint8)
    args = arguments(name, level, np.random.default_rng(seed))
    theirs = augment.OPERATIONS[name](image, *args)
    np.testing.assert_array_equal(operate(name, image, *args, original=True), theirs)


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(3, 60),
    seed=st.integers(0, 999),
    encode=st.booleans(),
)
def test_the_exact_transform_equals_the_original(height, width, size, seed, encode):
    pixels = picture(height, width, seed)
    source = jpeg(pixels) if encode else Image.fromarray(pixels)
    ours = BlipImageTrain(size, randaugment_original=True)(source, np.random.default_rng(seed))
    theirs = augment.TrainTransform(size)(source, np.random.default_rng(seed))
    assert torch.equal(ours, theirs)
