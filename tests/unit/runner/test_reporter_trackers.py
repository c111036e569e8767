from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from vlkit.errors import MissingDependency
from vlkit.runner.reporter import Trackers

LINE = {"step": 3, "loss": 1.5, "losses": {"lm": 1.0}, "eval": {"val/x": None}, "lr": 0.1}
FLAT = {"loss": 1.5, "losses/lm": 1.0, "lr": 0.1}


def test_without_trackers_nothing_is_imported_or_written(tmp_path):
    trackers = Trackers(tmp_path, False, None, {})
    trackers.log(LINE)
    trackers.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "tensorboard", "wandb"), [("tensorboard", True, None), ("wandb", False, "x")])
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package, tensorboard, wandb):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependency, match=rf"run\.{package} needs .* pip install 'vlkit\[track\]'"):
        Trackers(tmp_path, tensorboard, wandb, {})


def test_lines_are_passed_on_flat(tmp_path, monkeypatch):
    logged = []
    writer = SimpleNamespace(add_scalar=lambda *args: logged.append(args), close=lambda: logged.append("closed"))
    board = SimpleNamespace(SummaryWriter=lambda folder: writer)
    tracker = SimpleNamespace(
        init=lambda **kwargs: SimpleNamespace(
            log=lambda line, step: logged.append((line, step)), finish=lambda: logged.append("finished")
        )
    )
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    trackers = Trackers(tmp_path, True, "project", {"a": 1})
    trackers.log(LINE)
    trackers.close()
    assert logged == [*[(name, value, 3) for name, value in FLAT.items()], (FLAT, 3), "closed", "finished"]
