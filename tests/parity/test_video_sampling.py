"""Frames that the original's evaluation reads, and how it normalizes them."""

from __future__ import annotations

import pytest

from tests.parity.golden import Case
from vlkit.processors.image import MEAN, STD, Normalize
from vlkit.processors.video import original_norm
from vlkit.processors.video_decoding import frame_indices


def test_indices():
    for frames, lengths in Case("video_sampling").info["indices"].items():
        for length, expected in lengths.items():
            # For some lengths rounding gave the original one index more than it was asked for.
            assert frame_indices(int(length), int(frames), "original") == expected[: int(frames)]


@pytest.mark.parametrize("name", ["norm", "norm_dark"])
def test_normalization(name):
    case, normalize = Case("video"), Normalize(MEAN, STD)
    case.expect(f"{name}_out", original_norm(case[f"{name}_in"], normalize.mean, normalize.std))
