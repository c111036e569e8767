"""The plugin of docs/plugin.md: checked, trained, stopped, continued, evaluated; and the page shows what is there."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.assets.run_files import fails, start_cli
from tests.assets.waiting import LONG, wait_until
from vlkit.cli import main
from vlkit.registry import MODELS, load_plugin

DOCS = Path(__file__).parents[2] / "docs"
RUN = str(DOCS / "examples" / "counting.yaml")
TINY = [
    "model.width=4",
    "datasets.train.0.size=40",
    "datasets.eval.val.size=7",
    "datasets.eval.test.size=5",
    "run.duration=6 steps",
    "run.batch_size=8",
    "run.eval_every=3 steps",
    "run.checkpoint_every=2 steps",
    "run.log_every=1",
    "run.device=cpu",
    "run.sample_images=2",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    load_plugin(DOCS / "examples" / "counting.py")
    return sys.modules[MODELS.get("ordinal_counter").__module__]


def losses(out: str) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def test_check_looks_without_training(folder, capsys):
    assert main(["check", RUN, *TINY]) == 0
    printed = capsys.readouterr().out
    assert "nothing wrong was found" in printed
    assert "val/accuracy" in printed
    assert not (folder / "output").exists()


def test_a_wrong_key_of_the_plugin_is_reported_with_the_right_one(capsys):
    message = fails(capsys, "check", RUN, "model.widht=4")
    assert "Did you mean 'width'" in message
    message = fails(capsys, "check", RUN, "model.highest=2")
    assert "ordinal_counter: highest is 2" in message


def test_trained_evaluated_and_continued_as_if_never_stopped(folder, capsys):
    assert main(["train", RUN, "--output", "whole", *TINY]) == 0
    result = json.loads((folder / "whole/result.json").read_text())
    assert result["status"] == "finished"
    assert set(result["metrics"]) == {f"{name}/{score}" for name in ("val", "test") for score in ("accuracy", "error")}
    assert (folder / "whole/samples.png").is_file()
    process = start_cli("train", RUN, "--output", "parts", *TINY, held="step_00000004")
    wait_until((folder / "parts/checkpoints/step_00000002").is_dir, process.is_alive)
    os.kill(process.pid, signal.SIGKILL)
    process.join(LONG)
    capsys.readouterr()
    assert main(["train", RUN, "--output", "parts", *TINY]) == 0
    assert losses("parts") == losses("whole")
    last = "checkpoints/step_00000006/model.safetensors"
    assert (folder / "parts" / last).read_bytes() == (folder / "whole" / last).read_bytes()
    assert main(["evaluate", RUN, "--output", "whole", *TINY]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_logits_are_ordered_and_count_is_their_number(plugin):
    torch.manual_seed(0)
    model = plugin.OrdinalCounter(lowest=2, highest=6, width=4)
    model.steps.data.copy_(torch.tensor([-3.0, 0.5, 2.0]))
    image = torch.randn(5, 3, 16, 32)
    with torch.no_grad():
        logits = model(image)
        model.first.data.fill_(float(model.score(model.trunk(image)).mean()))
        counts = model.count(image)
    assert logits.shape == (5, 4)
    assert (logits.diff(dim=1) < 0).all()
    assert counts.tolist() == [2 + sum(value > 0 for value in row) for row in model(image).tolist()]


def test_strips_count_what_they_show(plugin):
    strips = plugin.Strips(split="val", size=20, scenes=2)
    assert len(strips) == 20
    for index in (0, 7, 19):
        sample = strips[index]
        scenes = [strips.world.scene(2 * index + place) for place in (0, 1)]
        assert sample["count"] == sum(len(scene.objects) for scene in scenes)
        assert sample["image"].shape == (3, 48, 96)
        assert torch.equal(sample["image"][..., 48:], strips.world[2 * index + 1]["image"])
    assert strips.fingerprint() != plugin.Strips(split="val", size=20, scenes=2, seed=1).fingerprint()


def test_targets_are_one_decision_for_every_count_but_the_highest(plugin):
    task, model = plugin.OrdinalCounting(), plugin.OrdinalCounter(width=4)
    batch = {"image": torch.zeros(5, 3, 16, 32), "count": [2, 3, 4, 5, 6]}
    more = task.prepare(model, batch, torch.device("cpu"))["more"]
    assert more.tolist() == torch.ones(5, 5).tril(-1)[:, :4].tolist()


def test_the_page_shows_the_files():
    page = (DOCS / "plugin.md").read_text()
    for name, kind in (("counting.py", "python"), ("counting.yaml", "yaml")):
        source = (DOCS / "examples" / name).read_text()
        shown = re.findall(rf"```{kind}\n(.*?)```", page, re.S)
        assert shown
        for block in shown:
            assert block in source, f"{name} has no such part:\n{block}"
