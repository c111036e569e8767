from __future__ import annotations

import json
import resource
import shutil

import pytest
import torch
from torch import nn

from tests.assets.toy import ToyModel, ToyTask, lines, toy_runner
from vlkit.config.schema import OptimConfig
from vlkit.errors import CheckpointError, VlkitError
from vlkit.io import tensor_files
from vlkit.runner.checkpoint import MODEL, OPTIMIZER, TRAINER, Checkpoints, load_tensors, restore, save_tensors
from vlkit.runner.optimizer import build_optimizer


@pytest.fixture
def saved(tmp_path):
    model = ToyModel(seed=1)
    optimizer = build_optimizer(model, OptimConfig(), torch.device("cpu"))
    return Checkpoints(tmp_path, keep=2), model, optimizer


def test_round_trip_restores_tied_tensors_and_buffers(saved):
    checkpoints, model, optimizer = saved
    path = checkpoints.save(model, optimizer, {"step": 100})
    assert path.name == "step_00000100"
    assert sorted(file.name for file in path.iterdir()) == sorted([MODEL, OPTIMIZER, TRAINER])
    other = ToyModel(seed=2)
    assert restore(path, other)["step"] == 100
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    assert other.head.weight is other.embed.weight


def test_a_shared_tensor_is_written_once(tmp_path):
    weight = torch.randn(3, 1000)
    tensors = {"a": weight, "b": weight, "row": weight[1], "other": torch.ones(2).bfloat16()}
    save_tensors(tmp_path / "t", tensors)
    assert (tmp_path / "t").stat().st_size < 2 * weight.nbytes
    found = load_tensors(tmp_path / "t")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, TRAINER])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damage_is_named(saved, name, damage):
    checkpoints, model, optimizer = saved
    path = checkpoints.save(model, optimizer, {"step": 5})
    if damage == "missing":
        (path / name).unlink()
    else:
        (path / name).write_bytes((path / name).read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=f"step_00000005 is damaged: {name}"):
        restore(path, model)
    with pytest.raises(CheckpointError, match=f"no checkpoint of the run .*step_00000005 is damaged: {name}"):
        checkpoints.newest()


def test_overwritten_content_is_named(saved):
    checkpoints, model, optimizer = saved
    file = checkpoints.save(model, optimizer, {"step": 5}) / MODEL
    file.write_bytes(b"\x80\x04" * (file.stat().st_size // 2) + b"." * (file.stat().st_size % 2))
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        restore(file.parent, model)
    assert "does not agree with its checksum" in checkpoints.problem(5)


def test_a_damaged_step_is_written_again_as_a_whole(saved):
    checkpoints, model, optimizer = saved
    file = checkpoints.save(model, optimizer, {"step": 5}) / MODEL
    whole = file.read_bytes()
    file.write_bytes(whole[:-3] + b"\0\0\0")
    again = Checkpoints(checkpoints.folder)
    assert again.problem(5)
    again.save(model, optimizer, {"step": 5})
    assert file.read_bytes() == whole
    assert again.problem(5) == ""


def test_prune_does_not_count_damaged_ones(saved):
    checkpoints, model, optimizer = saved
    for step in (1, 2, 3):
        checkpoints.save(model, optimizer, {"step": step})
    (checkpoints.path(3) / TRAINER).unlink()
    assert checkpoints.newest() == checkpoints.path(2)
    checkpoints.save(model, optimizer, {"step": 4})
    checkpoints.prune(now=4, best=None)
    assert checkpoints.steps() == [2, 4]


def test_weights_that_are_not_finite_are_named_when_they_are_restored(saved):
    checkpoints, model, optimizer = saved
    path = checkpoints.save(model, optimizer, {"step": 1})
    tensors = load_tensors(path / MODEL)
    tensors["block.0.bias"] = torch.full_like(tensors["block.0.bias"], float("inf"))
    save_tensors(path / MODEL, tensors)
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds .*not finite: block\.0\.bias \(8 of 8"):
        restore(path, ToyModel())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_buffer_that_is_not_finite_is_named_unless_a_new_model_has_it_so(saved, value):
    checkpoints, model, optimizer = saved
    model.queue[0] = value
    path = checkpoints.save(model, optimizer, {"step": 1})
    with pytest.raises(CheckpointError, match=r"not finite: queue \(8 of 96"):
        restore(path, ToyModel())
    new = ToyModel()
    new.queue[0] = value  # as a mask may be
    restore(path, new)
    assert torch.equal(new.queue.isfinite(), model.queue.isfinite())


def test_another_model_is_refused(saved):
    checkpoints, model, optimizer = saved
    path = checkpoints.save(model, optimizer, {"step": 1})
    with pytest.raises(CheckpointError, match=r"of another model: 2 tensors \(weight, bias\) missing"):
        restore(path, nn.Linear(2, 2))
    wide = ToyModel()
    wide.block[0] = nn.Linear(9, 9)
    with pytest.raises(CheckpointError, match="size mismatch"):
        restore(path, wide)


def test_weights_that_are_not_finite_are_never_written(saved):
    checkpoints, model, optimizer = saved
    model.block[0].bias.data[2] = float("nan")
    with pytest.raises(CheckpointError, match=r"block\.0\.bias is not finite"):
        checkpoints.save(model, optimizer, {"step": 1})
    assert checkpoints.steps() == []


def test_saving_a_step_again_renews_what_is_beside_the_tensors(saved):
    checkpoints, model, optimizer = saved
    path = checkpoints.save(model, optimizer, {"step": 1, "best": None})
    checkpoints.save(model, optimizer, {"step": 1, "best": 3})
    assert restore(path, model)["best"] == 3
    (path / MODEL).unlink()
    checkpoints.save(model, optimizer, {"step": 1, "best": 4})
    assert restore(path, model)["best"] == 4


def test_prune_keeps_newest_best_and_does_not_count_later_ones(saved):
    checkpoints, model, optimizer = saved
    for step in (1, 2, 3, 4, 9):
        checkpoints.save(model, optimizer, {"step": step})
    checkpoints.prune(now=4, best=1)
    assert checkpoints.steps() == [1, 3, 4, 9]


def test_leftovers_of_killed_writes_are_no_checkpoints(saved):
    checkpoints, model, optimizer = saved
    path = checkpoints.save(model, optimizer, {"step": 1})
    shutil.copytree(path, checkpoints.folder / ".step_00000002.abcd.tmp")
    assert checkpoints.newest() == path
    checkpoints.sweep()
    assert [entry.name for entry in checkpoints.folder.iterdir()] == [path.name]


def test_a_full_disk_loses_nothing(saved):
    checkpoints, model, optimizer = saved
    path = checkpoints.save(model, optimizer, {"step": 1})
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(VlkitError, match="step_00000002"):
            checkpoints.save(model, optimizer, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [entry.name for entry in checkpoints.folder.iterdir()] == [path.name]
    assert checkpoints.newest() == path


def test_a_run_continues_after_a_full_disk(tmp_path, monkeypatch):
    toy_runner(tmp_path / "whole").train()
    real, calls = tensor_files.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 4:  # the optimizer of the second checkpoint
            raise OSError(28, "No space left on device", path)
        real(tensors, path, metadata)

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(VlkitError, match=r"(?i)no space left"):
        toy_runner(tmp_path / "full").train()
    monkeypatch.undo()
    assert toy_runner(tmp_path / "full").train()["status"] == "finished"
    assert lines(tmp_path / "full") == lines(tmp_path / "whole")


def test_a_run_with_another_batch_size_is_refused(tmp_path):
    toy_runner(tmp_path, ToyTask(signal_at=2)).train()
    with pytest.raises(CheckpointError, match="batch_size 8 and seed 3; this run has 4"):
        toy_runner(tmp_path, batch_size=4).train()


def test_trainer_json_is_small_and_plain(tmp_path):
    toy_runner(tmp_path, max_steps=3).train()
    content = json.loads((tmp_path / "checkpoints" / "step_00000003" / TRAINER).read_text())
    assert content["data"] == {"counts": [16, 8]}
    assert content["step"] == 3
    assert set(content["files"]) == {MODEL, OPTIMIZER}
