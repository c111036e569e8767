"""Damaged video files: frames or a bad sample, whatever happens to the process that decodes them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.unit.processors.clips import write_clip
from vlkit.errors import BadSample
from vlkit.processors.video_reader import VideoReader

FULL = os.environ.get("VLKIT_CAMPAIGN") == "full"
COUNT, SEED = 1000 if FULL else 20, 11


@pytest.mark.campaign
@pytest.mark.timeout(4 * 3600 if FULL else 300)
def test_damaged_videos_give_frames_or_a_bad_sample(tmp_path):
    pytest.importorskip("av")
    files = [write_clip(tmp_path / "a.mp4", 12), write_clip(tmp_path / "b.avi", 12), write_clip(tmp_path / "c.mkv", 12)]
    originals = [(file.suffix, file.read_bytes()) for file in files]
    reader = VideoReader({"decord": 3, "av": 5}, memory=1_000_000_000)
    read = refused = 0
    try:
        for number in range(COUNT):
            rng = np.random.default_rng([SEED, number])
            suffix, data = originals[number % len(originals)]
            damaged = bytearray(data)
            for place in rng.integers(len(damaged), size=rng.integers(1, 30)):
                damaged[place] = rng.integers(256)
            if rng.random() < 0.3:
                del damaged[rng.integers(len(damaged)) :]
            file = tmp_path / f"damaged{number}{suffix}"
            file.write_bytes(damaged)
            try:
                frames = reader.read(file, 4)
            except BadSample:
                refused += 1
            else:
                assert len(frames) == 4
                assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames)
                read += 1
            file.unlink()
    finally:
        reader.close()
    assert read > COUNT / 10
    assert refused > COUNT / 10
