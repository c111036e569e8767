"""Wrong inputs end ``check`` and ``train`` with one clear message and exit code 2, and nothing is lost."""

from __future__ import annotations

import errno
import pickle
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.run_files import caption_run, fails, pretrain_run, snapshot, write
from tests.assets.wrong_inputs import ROWS, Malice
from vlkit.cli import main
from vlkit.config.parts import model_part
from vlkit.config.yamlfile import dump_yaml
from vlkit.io.tensor_files import save_tensors
from vlkit.registry import DATASETS, MODELS, PROCESSORS, TASKS
from vlkit.runner import checkpoint as checkpoint_module

CASES = [(row, command) for row in ROWS for command in row.commands]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in; what plugins register is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    for registry in (MODELS, DATASETS, TASKS, PROCESSORS):
        registry.names()
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    return tmp_path


@pytest.mark.parametrize(("row", "command"), CASES, ids=[f"{command}-{row.name}" for row, command in CASES])
def test_wrong_inputs(row, command, folder, capsys):
    (folder / "base.yaml").write_text("optim: {weight_decay: 0.1}\n")
    run = caption_run(folder)
    text = row.change(run, folder)
    (folder / "run.yaml").write_text(text if isinstance(text, str) else dump_yaml(run))
    before = snapshot(folder)
    message = fails(capsys, command, "run.yaml", *row.overrides)
    for part in row.says:
        assert part in message
    after = snapshot(folder)
    assert {name: after.get(name) for name in before} == before
    if not (row.writes and command == "train"):
        assert after == before
        assert not (folder / "pwned").exists()


def test_there_are_enough_rows():
    assert len({row.name for row in ROWS}) == len(ROWS) >= 50


def test_the_right_input_is_right(folder, capsys):
    """Otherwise every row could fail for a reason that they share."""
    run = write(folder / "run.yaml", caption_run(folder))
    assert main(["check", run]) == 0
    assert main(["train", run]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["check", "train", "evaluate", "run"])
def test_missing_file(command, folder, capsys):
    write(folder / "run.yaml", caption_run(folder))
    message = fails(capsys, command, "runn.yaml")
    assert "runn.yaml: does not exist" in message
    assert "Did you mean 'run.yaml'" in message


@pytest.mark.parametrize("command", ["check", "train"])
def test_all_mistakes_are_reported_together(command, folder, capsys):
    run = caption_run(folder)
    run["model"]["promt"], run["optim"]["lr"], run["run"]["grad_accum_steps"] = "a ", "fast", 3
    run["datasets"]["train"][0]["name"] = "image_txt"
    message = fails(capsys, command, write(folder / "run.yaml", run))
    assert all(each in message for each in ("promt", "'fast'", "grad_accum_steps (3)", "image_txt"))


@pytest.mark.parametrize("command", ["check", "train"])
def test_mistakes_in_data_weights_and_model_are_reported_together(command, folder, capsys):
    run = caption_run(folder, init_from="missing.pth")
    (folder / "data/images/000002.png").unlink()
    run["model"]["tokenizer"] = "nowhere.txt"
    message = fails(capsys, command, write(folder / "run.yaml", run))
    assert all(each in message for each in ("missing.pth", "000002.png", "nowhere.txt"))


@pytest.mark.parametrize("command", ["check", "train"])
def test_full_disk_is_found_before_the_first_step(command, folder, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 5000, 5000))
    message = fails(capsys, command, write(folder / "run.yaml", caption_run(folder)))
    assert "no space for the checkpoints in out: 5.0 kB are free" in message
    assert not (folder / "out").exists()


def test_disk_that_fills_during_the_run_leaves_earlier_checkpoints(folder, capsys, monkeypatch):
    run = write(folder / "run.yaml", caption_run(folder, checkpoint_every=1, keep_checkpoints=3))
    save, saved = checkpoint_module.save_tensors, []

    def fill(path: Path, tensors: Any) -> None:
        saved.append(path)
        if len(saved) > 4:  # two files a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, tensors)

    monkeypatch.setattr(checkpoint_module, "save_tensors", fill)
    message = fails(capsys, "train", run)
    assert "step_00000003" in message
    assert "no space left on the disk" in message
    left = sorted(path.name for path in (folder / "out/checkpoints").iterdir())
    assert left == ["step_00000001", "step_00000002"]
    monkeypatch.setattr(checkpoint_module, "save_tensors", save)
    assert main(["train", run]) == 0
    assert "continuing from out/checkpoints/step_00000002" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_pickle_is_not_executed_wherever_it_stands(command, folder, capsys):
    """Also under the name of a safetensors file, and in the archive that torch writes."""
    run = pretrain_run()
    (folder / "model.safetensors").write_bytes(pickle.dumps(Malice()))
    torch.save({"model": Malice()}, folder / "weights.bin")
    for name in ("model.safetensors", "weights.bin"):
        run["run"]["init_from"] = name
        assert name in fails(capsys, command, write(folder / "run.yaml", run))
    assert not (folder / "pwned").exists()
    pickle.loads((folder / "model.safetensors").read_bytes())
    assert (folder / "pwned").exists()  # so it would have been noticed


def test_wrong_checkpoint_of_an_evaluation(folder, capsys):
    run = write(folder / "run.yaml", caption_run(folder))
    (folder / "weights.pth").write_bytes(b"PK\x03\x04 cut")
    message = fails(capsys, "evaluate", run, "--checkpoint", "weights.pht")
    assert message.startswith("error: --checkpoint: ")
    assert "Did you mean 'weights.pth'" in message
    assert "damaged or cut short" in fails(capsys, "evaluate", run, "--checkpoint", "weights.pth")


@pytest.fixture
def without_numbers(folder) -> str:
    """Weights of the captioner of :func:`caption_run` with a NaN."""
    run = caption_run(folder)
    model = model_part(run["model"]).build()
    model.visual_encoder.norm.weight.data[0] = float("nan")
    save_tensors(folder / "nan.safetensors", model.state_dict())
    return "nan.safetensors"


@pytest.mark.parametrize("command", ["check", "train", "evaluate"])
def test_weights_that_are_not_finite_are_named(command, folder, without_numbers, capsys):
    run = caption_run(folder, init_from=without_numbers)
    message = fails(capsys, command, write(folder / "run.yaml", run))
    assert "nan.safetensors holds weights that are not finite: visual_encoder.norm.weight (1 of 16 values)" in message
    assert not (folder / "out").exists()
