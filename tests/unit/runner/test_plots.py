from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image

from vlkit.runner.log import MetricsFile
from vlkit.runner.plots import draw_curves, draw_sample_grid


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


def test_curves_of_losses_and_scores(tmp_path):
    log = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, 5):
        log.append({"step": step, "loss": 1 / step, "losses": {"lm": 1 / step}, "metrics": {"age": 3.0}})
    log.append({"step": 4, "eval": {"val/cider": 0.5, "val/empty": None}})
    assert draw_curves(log.path, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (3 * 320, 240)


def test_nothing_to_plot_draws_nothing(tmp_path):
    assert not draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_fails_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    MetricsFile(tmp_path / "metrics.jsonl").append({"step": 1, "loss": 1.0})
    assert not draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert "curves.png was not drawn: ModuleNotFoundError" in caplog.text
