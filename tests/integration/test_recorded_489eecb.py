"""Folders that commit 489eecb wrote are read through the table of old keys."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.run_files import fails, write
from vlkit import load_model_and_preprocess
from vlkit.cli import main
from vlkit.config.load import load_config

RECORDED = Path(__file__).parents[1] / "assets" / "recorded_489eecb"
LIMITS = {"max_pixels": 89478485, "image_key": "image", "caption_key": "caption"}
"""Defaults of the section ``input`` at that commit."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which is the working directory."""
    shutil.copytree(RECORDED, tmp_path / "recorded")
    monkeypatch.chdir(tmp_path / "recorded")
    return tmp_path / "recorded"


@pytest.fixture
def run(folder: Path) -> dict[str, Any]:
    """The recorded configuration, as it would be written today."""
    return load_config("train/config.yaml").data


def test_the_folder_holds_old_keys():
    assert "  accumulate: 2\n" in (RECORDED / "train/config.yaml").read_text()
    assert json.loads((RECORDED / "train/checkpoints/step_00000002/trainer.json").read_text())["version"] == 1
    assert "output" not in json.loads((RECORDED / "capfilt/capfilt.json").read_text())["run"]


def test_the_recorded_configuration_has_the_current_keys(run):
    assert run["run"]["grad_accum_steps"] == 2
    assert "accumulate" not in run["run"]


def test_a_run_is_resumed(run, caplog):
    caplog.set_level(logging.INFO)
    assert main(["train", write(Path("train.yaml"), run), "run.max_steps=4", "run.check=false"]) == 0
    assert "continuing from train/checkpoints/step_00000002" in caplog.text
    assert Path("train/checkpoints/step_00000004").is_dir()


def test_another_number_of_micro_batches_is_another_run(run, capsys):
    message = fails(capsys, "train", write(Path("train.yaml"), run), "run.max_steps=4", "run.grad_accum_steps=1")
    assert "run.grad_accum_steps was 2, is 1" in message


def test_its_checkpoint_is_evaluated(folder):
    recorded = json.loads(Path("train/result.json").read_text())
    assert main(["evaluate", "train/config.yaml", "--checkpoint", "train", "--output", "scores"]) == 0
    found = json.loads(Path("scores/evaluation.json").read_text())
    for name in ("val/cider", "val/bleu_1"):
        assert found["metrics"][name] == pytest.approx(recorded["metrics"][name])


def test_its_model_is_loaded(folder):
    model, *_ = load_model_and_preprocess("blip_caption", "tiny", checkpoint="train", device="cpu")
    assert model.generate({"image": torch.zeros(1, 3, 48, 48)}, max_length=8, min_length=1)


def test_an_old_key_in_a_file_is_an_error(run, capsys):
    del run["run"]["grad_accum_steps"]
    run["run"]["accumulate"] = 2
    message = fails(capsys, "train", write(Path("train.yaml"), run))
    assert "run.accumulate (line" in message
    assert "the key 'accumulate' is now named 'grad_accum_steps'" in message


def test_an_old_key_in_an_override_is_an_error(run, capsys):
    message = fails(capsys, "train", "train/config.yaml", "run.accumulate=1")
    assert "command line: run.accumulate: the key 'accumulate' is now named 'grad_accum_steps'" in message


def job() -> dict[str, Any]:
    """The job that wrote the folder ``capfilt``, as it would be written today."""
    recorded = json.loads(Path("capfilt/capfilt.json").read_text())
    models = {role: {**recorded["model"][role], "weights": f"{role}.safetensors"} for role in ("captioner", "filter")}
    return {
        "model": {"name": "blip_capfilt", **models},
        "task": recorded["task"],
        "input": {"path": "shards", **LIMITS},
        "run": {"output_dir": "capfilt", "batch_size": 4, "device": "cpu"},
    }


def test_a_capfilt_job_is_resumed(folder, capsys):
    done = {file.name: file.read_bytes() for file in Path("capfilt/kept").iterdir()}
    assert main(["capfilt", write(Path("capfilt.yaml"), job())]) == 0
    assert {file.name: file.read_bytes() for file in Path("capfilt/kept").iterdir()} == done
    assert "this process: " not in capsys.readouterr().out


def test_another_capfilt_job_is_refused(folder, capsys):
    changed = job()
    changed["run"]["store_dropped"] = False
    message = fails(capsys, "capfilt", write(Path("capfilt.yaml"), changed))
    assert "run.store_dropped was True, is False" in message
