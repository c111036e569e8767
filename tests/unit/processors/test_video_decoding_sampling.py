from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import ConfigError
from vlkit.processors.video_decoding import frame_indices


@pytest.mark.parametrize(
    ("count", "frames", "even", "original"),
    [
        (8, 4, [1, 3, 5, 7], [0, 2, 4, 6]),
        (10, 4, [1, 3, 6, 8], [0, 2, 4, 6]),
        (3, 5, [0, 0, 1, 2, 2], [0, 0, 0, 0, 0]),
        (9, 1, [4], [0]),
        (1, 2, [0, 0], [0, 0]),
    ],
)
def test_by_hand(count, frames, even, original):
    assert frame_indices(count, frames) == even
    assert frame_indices(count, frames, "original") == original


@settings(deadline=None, max_examples=100)
@given(count=st.integers(1, 5000), frames=st.integers(1, 64))
def test_even_is_symmetric_and_covers_the_video(count, frames):
    found = frame_indices(count, frames)
    assert len(found) == frames
    assert found == sorted(found)
    assert found[0] >= 0
    assert found[-1] < count
    # Neighbors are as far apart as any others, and both ends are as far away, up to rounding.
    gaps = [b - a for a, b in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(found[0] - (count - 1 - found[-1])) <= 1
    if frames <= count:
        assert len(set(found)) == frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 0), "frames: 0 given; it must be 1 or more"),
        ((8, 2, "evn"), r"'even' or 'original' allowed\. Did you mean 'even'"),
        ((0, 2), "a video of 0 frames has none"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        frame_indices(*arguments)
