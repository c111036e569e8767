from __future__ import annotations

import sys

from PIL import Image

from vlkit.runner.log import MetricsFile
from vlkit.runner.reporter import draw_curves


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
