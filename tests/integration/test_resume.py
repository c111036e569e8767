"""A run that is stopped anywhere and continued is the run that never stopped, to the bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.assets.damage import DAMAGES, flip
from tests.assets.toy import ToyTask, lines, start, toy_runner
from tests.assets.waiting import LONG, wait_until
from vlkit.config.durations import Duration
from vlkit.errors import CheckpointError, RunFailed
from vlkit.models.weights.files import weights_file
from vlkit.runner.checkpoint import MODEL, OPTIMIZER

HARD = {"num_workers": 2, "grad_accum_steps": 2}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The reference: mixed datasets, workers, accumulation, dropout, EMA, queue."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert toy_runner(folder, **HARD).train()["status"] == "finished"
    return folder


def assert_same_run(folder: Path, reference: Path) -> None:
    assert lines(folder) == lines(reference)
    for name in (MODEL, OPTIMIZER):
        last = Path("checkpoints/step_00000012") / name
        assert (folder / last).read_bytes() == (reference / last).read_bytes()
    ours, theirs = (json.loads((each / "result.json").read_text()) for each in (folder, reference))
    assert ours["metrics"] == theirs["metrics"]
    assert ours["best"]["step"] == theirs["best"]["step"]


def test_the_reference_learns_and_covers_more_than_an_epoch(uninterrupted):
    training = [line for line in lines(uninterrupted) if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, 13))
    assert training[-1]["epoch"] > 2
    assert training[-1]["losses"]["lm"] != training[0]["losses"]["lm"]


def test_killed_at_a_random_step(tmp_path, uninterrupted):
    step = random.randrange(1, 12)
    process = start(tmp_path, kill=step, **HARD)
    process.join(LONG)
    assert process.exitcode == -signal.SIGKILL
    assert max((line["step"] for line in lines(tmp_path)), default=0) == step
    assert toy_runner(tmp_path, **HARD).train()["status"] == "finished", f"killed before step {step}"
    assert_same_run(tmp_path, uninterrupted)


def test_killed_from_outside_at_any_moment(tmp_path, uninterrupted):
    process = start(tmp_path, checkpoint_every=1, **HARD)
    file = tmp_path / "metrics.jsonl"
    wait_until(lambda: file.exists() and file.read_text().count("\n") >= 4, process.is_alive)
    time.sleep(random.random() * 0.05)
    process.kill()
    process.join(LONG)
    toy_runner(tmp_path, **HARD).train()
    assert_same_run(tmp_path, uninterrupted)


def test_terminated_in_the_middle_of_an_epoch(tmp_path, uninterrupted):
    process = start(tmp_path, signal_at=5, **HARD)
    process.join(LONG)
    assert process.exitcode == 128 + signal.SIGTERM
    assert (tmp_path / "checkpoints" / "step_00000006").is_dir()
    assert not (tmp_path / "result.json").exists()
    toy_runner(tmp_path, **HARD).train()
    assert_same_run(tmp_path, uninterrupted)


def test_terminated_during_an_evaluation(tmp_path, uninterrupted):
    class Stopped(ToyTask):
        def evaluate(self, model, loader, context):
            if context.step == 8:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().evaluate(model, loader, context)

    result = toy_runner(tmp_path, Stopped(), **HARD).train()
    assert (result["status"], result["signal"], result["step"]) == ("interrupted", signal.SIGTERM, 8)
    toy_runner(tmp_path, **HARD).train()
    assert_same_run(tmp_path, uninterrupted)


def test_stopped_at_every_step(tmp_path, uninterrupted):
    for step in range(12):
        result = toy_runner(tmp_path, ToyTask(signal_at=step), grad_accum_steps=2).train()
        assert result["step"] == step + 1
    toy_runner(tmp_path, grad_accum_steps=2).train()
    assert_same_run(tmp_path, uninterrupted)


def test_neither_log_nor_workers_change_the_weights(tmp_path, uninterrupted):
    toy_runner(tmp_path, grad_accum_steps=2, log_every=5, eval_every=None).train()
    last = Path("checkpoints/step_00000012") / MODEL
    assert (tmp_path / last).read_bytes() == (uninterrupted / last).read_bytes()
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [5, 10, 12]


def test_means_of_the_log_survive_a_stop_between_two_lines(tmp_path):
    for folder, steps in (("whole", [None]), ("stopped", [6, None])):
        for step in steps:
            toy_runner(tmp_path / folder, ToyTask(signal_at=step), log_every=5).train()
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_a_finished_run_gives_its_result_again(tmp_path):
    first = toy_runner(tmp_path, max_steps=2).train()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    task = ToyTask()
    assert toy_runner(tmp_path, task, max_steps=2).train()["metrics"] == first["metrics"]
    assert task.seen == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, uninterrupted, caplog):
    toy_runner(tmp_path, ToyTask(signal_at=9), grad_accum_steps=2, keep_checkpoints=2).train()
    file = tmp_path / "checkpoints" / "step_00000010" / MODEL
    file.write_bytes(file.read_bytes()[:-100])
    toy_runner(tmp_path, grad_accum_steps=2, keep_checkpoints=2).train()
    assert "step_00000010 is damaged: model.safetensors has" in caplog.text
    assert_same_run(tmp_path, uninterrupted)


def test_the_best_of_before_a_damaged_one_that_was_better_needs_no_second_warning(tmp_path, caplog):
    class Best(ToyTask):
        def evaluate(self, model, loader, context):
            return {"loss": -1.0 if context.step == 2 else 0.0 - context.step * (context.step == 8)}

    every = {"eval_every": Duration(2, "steps"), "checkpoint_every": Duration(2, "steps")}
    with pytest.raises(RunFailed):
        toy_runner(tmp_path, Best(broken_at=8), **every).train()
    assert sorted(path.name[-1] for path in (tmp_path / "checkpoints").iterdir()) == ["6", "8"]
    flip(tmp_path / "checkpoints" / "step_00000008" / MODEL, 8000)
    caplog.clear()
    assert weights_file(tmp_path).parent.name == "step_00000006"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    assert toy_runner(tmp_path, Best(), **every).train()["best"]["step"] == 8
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_checkpoints_kept_are_the_newest_and_the_best(tmp_path):
    class Best(ToyTask):
        def evaluate(self, model, loader, context):
            return {"loss": abs(context.step - 4) - 10.0}

    every = Duration(2, "steps")
    result = toy_runner(tmp_path, Best(), eval_every=every, checkpoint_every=every).train()
    assert result["best"]["step"] == 4
    assert result["best"]["value"] == -10.0
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000004", "step_00000010", "step_00000012"]


@pytest.mark.parametrize("name", ["zero_end model.safetensors", "zero_end optimizer.safetensors", "wrong type"])
def test_whatever_the_damage_the_run_ends_as_if_uninterrupted(tmp_path, uninterrupted, caplog, name):
    toy_runner(tmp_path, ToyTask(signal_at=9), grad_accum_steps=2, keep_checkpoints=2).train()
    file, damage = DAMAGES[name]
    damage(tmp_path / "checkpoints" / "step_00000010" / file)
    toy_runner(tmp_path, grad_accum_steps=2, keep_checkpoints=2).train()
    assert [record.levelname for record in caplog.records].count("WARNING") == 1 + 1  # and that of the signal
    assert "step_00000010 is damaged" in caplog.text
    assert_same_run(tmp_path, uninterrupted)


def test_when_all_checkpoints_are_damaged_nothing_is_overwritten(tmp_path):
    toy_runner(tmp_path, ToyTask(signal_at=9), keep_checkpoints=2).train()
    for file in tmp_path.glob(f"checkpoints/*/{MODEL}"):
        flip(file, 8000)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*") if file.is_file()}
    task = ToyTask()
    with pytest.raises(CheckpointError, match=r"no checkpoint of the run .* Restore one of them"):
        toy_runner(tmp_path, task, keep_checkpoints=2).train()
    assert task.seen == []
    assert {file: file.read_bytes() for file in before} == before


def test_a_best_checkpoint_that_is_lost_is_said_and_chosen_again(tmp_path, caplog):
    class Best(ToyTask):
        def evaluate(self, model, loader, context):
            return {"loss": abs(context.step - 4) - 10.0}

    every = {"eval_every": Duration(2, "steps"), "checkpoint_every": Duration(2, "steps"), "keep_checkpoints": 1}
    toy_runner(tmp_path, Best(signal_at=7), **every).train()
    flip(tmp_path / "checkpoints" / "step_00000004" / MODEL, 8000)
    result = toy_runner(tmp_path, Best(), **every).train()
    assert "step_00000004 is damaged" in caplog.text
    assert "the best is chosen again" in caplog.text
    assert result["best"]["step"] == 8
