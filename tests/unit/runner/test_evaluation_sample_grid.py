from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlkit.runner.evaluation import _normalization, draw_sample_grid


def pixel(path, left, top):
    return tuple(int(v) for v in np.asarray(Image.open(path))[top, left])


def test_images_are_unnormalized_and_texts_drawn(tmp_path):
    color = torch.tensor([0.8, 0.4, 0.0])
    mean, std = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.1, 0.2, 0.25])
    image = ((color - mean) / std)[:, None, None].expand(3, 16, 16)
    path = tmp_path / "a" / "samples.png"
    draw_sample_grid([image] * 6, ["a red square"] * 5 + [""], path, mean.tolist(), std.tolist())
    assert Image.open(path).size == (4 * 200 + 8, 2 * 264 + 8)
    assert pixel(path, 100, 100) == (204, 102, 0)
    picture = np.asarray(Image.open(path).convert("L"))
    texts = picture[204:260, 8:200], picture[204 + 264 : 260 + 264, 208:400]
    assert texts[0].min() < 100
    assert texts[1].min() == 255


def test_without_statistics_the_range_is_stretched(tmp_path):
    image = torch.linspace(-3, 5, 8).expand(3, 8, 8)
    draw_sample_grid([image], ["x " * 300], tmp_path / "p.png")
    assert pixel(tmp_path / "p.png", 9, 100)[0] < 12
    assert pixel(tmp_path / "p.png", 198, 100)[0] > 243


def test_a_constant_image_and_the_first_frame_of_a_video(tmp_path):
    video = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    draw_sample_grid([video, torch.full((3, 4, 4), 7.0)], ["", ""], tmp_path / "p.png", [0.0] * 3, [1.0] * 3)
    assert pixel(tmp_path / "p.png", 100, 100) == (0, 0, 0)


@pytest.mark.parametrize("normalize", [None, True, lambda image: image])
def test_a_processor_without_statistics_has_none(normalize):
    dataset: Any = SimpleNamespace(image_processor=SimpleNamespace(normalize=normalize))
    assert _normalization(dataset) == (None, None)
