"""Whatever fails during a run, what was trained is saved, and the message says where and how to continue."""

from __future__ import annotations

import json

import pytest
import torch

from tests.assets.toy import ToyDataset, ToyModel, ToyTask, lines, toy_runner
from vlkit.config.durations import Duration
from vlkit.datasets.mixture import Mixture
from vlkit.errors import ConfigError, VlkitError
from vlkit.models.weights.files import weights_file
from vlkit.runner import checkpoint as checkpoint_module
from vlkit.runner.checkpoint import MODEL

AT_END = {"eval_every": None, "checkpoint_every": None}


def steps(folder):
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step_*"))


def assert_same(folder, reference):
    """The run in ``folder`` ended as the one that never failed."""
    assert lines(folder) == lines(reference)
    last = f"checkpoints/step_00000012/{MODEL}"
    assert (folder / last).read_bytes() == (reference / last).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    toy_runner(folder).train()
    return folder


@pytest.fixture(scope="module")
def whole_at_end(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole_at_end")
    toy_runner(folder, **AT_END).train()
    return folder


class FailsAt(ToyTask):
    """Raises ``error`` in one of its methods, at a step."""

    def __init__(self, method, step, error):
        super().__init__()
        self.method, self.step, self.error = method, step, error

    def train_step(self, model, inputs, progress):
        if self.method == "train_step" and progress.step == self.step:
            raise self.error
        return super().train_step(model, inputs, progress)

    def evaluate(self, model, loader, context):
        if self.method == "evaluate" and context.step == self.step:
            raise self.error
        scores = super().evaluate(model, loader, context)
        return {**scores, "words": "many"} if self.method == "score" and context.step == self.step else scores

    def describe(self, model, batch, context):
        if self.method == "describe":
            raise self.error
        return super().describe(model, batch, context)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such answer"),
        KeyError("references"),
        ConfigError("no list"),
        MemoryError(),
        OSError(28),
        RuntimeError("the socket of a tracker timed out"),  # the words of a lost process, which nobody can lose here
    ],
)
@pytest.mark.parametrize("method", ["evaluate", "describe", "score", "train_step"])
def test_an_error_loses_no_step_and_the_same_command_continues(tmp_path, whole_at_end, method, error):
    failing_step = 7 if method == "train_step" else 12
    with pytest.raises(VlkitError) as caught:
        toy_runner(tmp_path, FailsAt(method, failing_step, error), **AT_END).train()
    assert steps(tmp_path) == [failing_step]
    message = str(caught.value)
    assert f"Step {failing_step} is saved in {tmp_path / 'checkpoints'}/step_{failing_step:08d}" in message
    assert "start the same command again" in message
    if isinstance(error, VlkitError) and method != "score":
        assert caught.value is error
    task = ToyTask()
    assert toy_runner(tmp_path, task, **AT_END).train()["status"] == "finished"
    trained = [each for each in task.seen if not each[0].startswith("val")]
    assert len(trained) == 12 - failing_step
    assert_same(tmp_path, whole_at_end)


def test_a_checkpoint_is_there_while_an_evaluation_runs(tmp_path):
    """Nothing else helps against what kills the process in an evaluation."""
    found = []

    class Looks(ToyTask):
        def evaluate(self, model, loader, context):
            found.append((context.step, steps(tmp_path)[-1]))
            return super().evaluate(model, loader, context)

    toy_runner(tmp_path, Looks(), checkpoint_every=None).train()
    assert found == [(4, 4), (8, 8), (12, 12)]


def test_the_scores_of_a_step_saved_before_its_evaluation_are_not_lost(tmp_path, whole):
    with pytest.raises(VlkitError, match="the evaluation after step 8 failed: ValueError"):
        toy_runner(tmp_path, FailsAt("evaluate", 8, ValueError("x"))).train()
    trainer = json.loads((tmp_path / "checkpoints/step_00000008/trainer.json").read_text())
    assert trainer["evaluated"]["step"] == 4
    toy_runner(tmp_path).train()
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("vlkit.runner.reporter.Trackers.log", "the log of step 1"),
        ("vlkit.runner.reporter.Bar.report", "the log of step 1"),
        ("vlkit.runner.reporter.Bar.advance", "the log of step 1"),
        ("vlkit.runner.log.MetricsFile.append", "the log of step 1"),
        ("vlkit.runner.reporter.Reporter.bad_samples", "the log of step 1"),
        ("vlkit.runner.reporter.Trackers.close", "the end of the log"),
    ],
)
def test_a_log_or_tracker_that_fails_loses_nothing(tmp_path, whole, monkeypatch, place, what):
    def fail(*args):
        raise RuntimeError("the tracker's server is gone")

    with monkeypatch.context() as patched:
        patched.setattr(place, fail)
        with pytest.raises(VlkitError, match=f"{what} failed: RuntimeError: the tracker's server is gone") as caught:
            toy_runner(tmp_path).train()
    step = 12 if place.endswith("close") else 1
    assert steps(tmp_path)[-1] == step
    assert f"Step {step} is saved in" in str(caught.value)
    toy_runner(tmp_path).train()
    assert_same(tmp_path, whole)


def test_data_that_fail_in_a_step_lose_none_before_it(tmp_path):
    whole = [ToyDataset(21, "a"), ToyDataset(13, "b")]
    stream = Mixture(whole, [2.0, 1.0], seed=3)
    keys = stream.take(stream.start(), 12 * 8)
    broken = [ToyDataset(21, "a"), ToyDataset(13, "b")]
    where, index = keys[50][0], keys[50][2]
    first = next(place for place, key in enumerate(keys) if (key[0], key[2]) == (where, index)) // 8
    broken[where] = ToyDataset(broken[where].size, "ab"[where], broken=[index])
    with pytest.raises(VlkitError, match="input/output error"):
        toy_runner(tmp_path, train=Mixture(broken, [2.0, 1.0], seed=3), **AT_END).train()
    assert steps(tmp_path) == ([first] if first else [])
    toy_runner(tmp_path, **AT_END).train()
    toy_runner(tmp_path / "whole", **AT_END).train()
    assert_same(tmp_path, tmp_path / "whole")


def test_a_step_that_had_moved_the_momentum_encoder_is_not_saved(tmp_path, whole):
    """Saved in between, it would move twice: the run continues from the checkpoint before instead."""

    class Late(ToyTask):
        def train_step(self, model, inputs, progress):
            output = super().train_step(model, inputs, progress)
            if progress.step == 6:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return output

    with pytest.raises(VlkitError, match=r"Step 4 is saved in .*; the 2 steps after it are lost"):
        toy_runner(tmp_path, Late()).train()
    assert steps(tmp_path) == [4]
    toy_runner(tmp_path).train()
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_impatient_interruption_saves_the_last_step(tmp_path, whole_at_end, error):
    with pytest.raises(type(error)):
        toy_runner(tmp_path, FailsAt("train_step", 7, error), **AT_END).train()
    assert steps(tmp_path) == [7]
    toy_runner(tmp_path, **AT_END).train()
    assert_same(tmp_path, whole_at_end)


def test_a_checkpoint_that_cannot_be_written_says_what_is_left(tmp_path, monkeypatch):
    save = checkpoint_module.save_tensors

    def full(path, tensors):
        if "00000008" in str(path):
            raise RuntimeError("the object store does not answer")
        save(path, tensors)

    monkeypatch.setattr(checkpoint_module, "save_tensors", full)
    with pytest.raises(VlkitError, match=r"saving failed: RuntimeError.*Step 4 is saved in"):
        toy_runner(tmp_path).train()


def test_a_failure_before_the_first_step_writes_no_checkpoint(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no login")

    monkeypatch.setattr("vlkit.runner.reporter.Trackers", fail)
    with pytest.raises(VlkitError, match=r"the start of the log failed: RuntimeError: no login.*No checkpoint"):
        toy_runner(tmp_path).train()
    assert not (tmp_path / "checkpoints").exists()


class Scores(ToyTask):
    """Scores that are known beforehand."""

    def __init__(self, values, name="loss", **more):
        super().__init__(**more)
        self.values, self.name = values, name

    def evaluate(self, model, loader, context):
        return {self.name: self.values[context.step], "other": -self.values[context.step]}


def test_a_changed_monitor_forgets_the_best_and_reads_the_scores_that_are_there(tmp_path):
    values = {4: 1.0, 8: 2.0, 12: 3.0}
    toy_runner(tmp_path, Scores(values, signal_at=8)).train()
    result = toy_runner(tmp_path, Scores(values), monitor="val/other", mode="max").train()
    assert (result["best"]["step"], result["best"]["value"]) == (8, -2.0)  # of step 4 nothing is known any more
    assert (tmp_path / "checkpoints/step_00000008").is_dir()


def test_a_changed_monitor_of_a_finished_run_is_the_one_that_its_folder_goes_by(tmp_path):
    """Who loads the folder takes the best checkpoint, of the monitor that was asked for last."""
    values = {4: 1.0, 8: 2.0, 12: 3.0}
    toy_runner(tmp_path, Scores(values)).train()
    assert weights_file(tmp_path).parent.name == "step_00000004"
    (tmp_path / "result.json").unlink()  # as an unfinished one
    toy_runner(tmp_path, Scores(values), monitor="val/other", mode="min").train()
    assert weights_file(tmp_path).parent.name == "step_00000012"
    assert steps(tmp_path) == [8, 12]


def test_a_changed_monitor_that_no_evaluation_gives_ends_with_a_message_and_loses_nothing(tmp_path):
    toy_runner(tmp_path, ToyTask(signal_at=9)).train()
    with pytest.raises(ConfigError, match=r"(?s)val/lossy.*Did you mean 'val/loss'.*Step 12 is saved"):
        toy_runner(tmp_path, monitor="val/lossy").train()
    assert toy_runner(tmp_path).train()["best"]["monitor"] == "val/loss"


@pytest.mark.parametrize("keep", [1, 2])
def test_the_best_and_the_newest_survive_saving_before_each_evaluation(tmp_path, keep):
    values = {step: abs(step - 4.0) for step in range(2, 13, 2)}
    result = toy_runner(
        tmp_path, Scores(values), eval_every=Duration(2, "steps"), checkpoint_every=None, keep_checkpoints=keep
    ).train()
    assert steps(tmp_path) == sorted({4, *[10, 12][-keep:]})
    assert result["best"]["checkpoint"].endswith("step_00000004")


def test_a_run_that_starts_again_in_the_folder_of_an_unfinished_one_says_so(tmp_path, caplog):
    with pytest.raises(VlkitError):
        toy_runner(tmp_path, FailsAt("train_step", 0, ValueError("x"))).train()
    assert "starts again" not in caplog.text
    toy_runner(tmp_path, max_steps=2).train()
    assert "holds an unfinished run without a usable checkpoint: it starts again from step 0" in caplog.text


def test_a_frozen_model_part_is_no_reason_to_lose_a_step(tmp_path):
    """Frozen weights and buffers that a forward pass leaves alone do not make a failed step unsafe to save."""

    class Quiet(ToyModel):
        def _update(self, image):
            pass

    class Late(ToyTask):
        def train_step(self, model, inputs, progress):
            output = super().train_step(model, inputs, progress)
            if progress.step == 6:
                raise torch.OutOfMemoryError("out of memory")
            return output

    with pytest.raises(VlkitError, match=r"training step 7 failed: OutOfMemoryError.*Step 6 is saved in"):
        toy_runner(tmp_path, Late(), model=Quiet()).train()
