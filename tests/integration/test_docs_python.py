"""docs/python.md: its example runs, and what it says of limits holds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

import vlkit
from vlkit.io import image_urls
from vlkit.models.blip.base import BlipBase
from vlkit.models.blip.samples import LIST_BATCH
from vlkit.models.blip.vqa import BlipVqa

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("photo.jpg", "a.jpg", "b.png", "c.webp")):
        Image.fromarray(np.full((30, 40, 3), 50 * number, np.uint8)).save(name)
    example = re.search(r"```python\n(.*?)```", PAGE, re.S)
    assert example is not None
    calls = [line.partition("#")[0].strip() for line in example[1].splitlines() if line.startswith("model.")]
    names = {"vlkit": vlkit}
    exec(example[1], names)
    assert [len(eval(call, names)) for call in calls] == [1, 3]


def test_the_numbers_are_those_of_the_code():
    assert f"read and encoded {LIST_BATCH} pictures at a time" in PAGE
    assert f"{BlipBase.video_frames} frames ({BlipVqa.video_frames} for `blip_vqa`)" in PAGE
    megabytes, seconds = image_urls.MAX_BYTES >> 20, image_urls.SECONDS
    assert f"at most {megabytes} MB and {seconds:g} s" in PAGE
