from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from tests.assets.toy import ToyDataset, ToyModel, ToyTask, lines, toy_runner
from vlkit.config.durations import Duration
from vlkit.datasets.mixture import Mixture
from vlkit.errors import CheckpointError, ConfigError, DataError


def test_what_a_run_leaves_behind(tmp_path):
    result = toy_runner(tmp_path).train()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "samples.png",
        "curves.png",
        "result.json",
    }
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (result["status"], result["step"], result["samples"]) == ("finished", 12, 96)
    assert result["epoch"] == pytest.approx(96 / 34, abs=1e-5)
    data = json.loads((tmp_path / "environment.json").read_text())["data"]
    assert data == {"train": ["ToyDataset:21", "ToyDataset:13"], "eval": {"val": "ToyDataset:11"}}


def test_lengths_may_be_epochs_or_samples(tmp_path):
    train = [ToyDataset(20)]
    by_epoch = toy_runner(tmp_path / "a", train=train, max_steps=None, max_epochs=2).train()
    by_sample = toy_runner(tmp_path / "b", train=train, max_steps=None, max_samples=40).train()
    assert by_epoch["step"] == by_sample["step"] == 5
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_bad_samples_end_up_in_the_ledger_once_and_the_run_continues(tmp_path):
    train = Mixture([ToyDataset(10, "train", bad=[2, 7])], seed=3)
    evals = {"val": ToyDataset(6, "val", bad=[0, 5])}
    result = toy_runner(tmp_path, train=train, evals=evals, num_workers=1).train()
    found = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert {line["source"] for line in found} == {
        "train/2.jpg",
        "train/7.jpg",
        "val/0.jpg",
        "val/5.jpg",
    }
    assert len(found) == result["bad_samples"] == 4
    assert result["metrics"]["val/samples"] == 4.0
    assert {line["where"] for line in found if line["source"].startswith("val")} == {"evaluation set val"}


@pytest.mark.parametrize(("reading", "computing"), [(0.3, 0.8), (0.0, 0.8), (0.01, 0.0)])
def test_the_share_of_waiting_for_data_is_logged(tmp_path, monkeypatch, caplog, reading, computing):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("vlkit.runner.train_step.time", clock)
    monkeypatch.setattr("vlkit.runner.trainer.time", clock)

    class Slow(ToyDataset):
        def sample(self, index, rng):
            clock.now += reading
            return super().sample(index, rng)

    class Busy(ToyTask):
        def train_step(self, model, inputs, progress):
            clock.now += computing
            return super().train_step(model, inputs, progress)

    train = Mixture([Slow(20)], seed=3)
    with caplog.at_level("INFO"):
        toy_runner(
            tmp_path,
            Busy(),
            train=train,
            evals={},
            monitor=None,
            batch_size=8,
            grad_accum_steps=1,
            log_every=2,
        ).train()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert found
    share = 8 * reading / (8 * reading + computing)
    assert [line["waited_for_data"] for line in found] == pytest.approx([share] * len(found), abs=1e-4)
    expected = f"{share:.0%} of the time waits for data"
    assert (expected in caplog.text) == (share > 0.1)


def test_an_unknown_score_is_named_and_nothing_is_lost(tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean 'val/loss'"):
        toy_runner(tmp_path, monitor="val/lossy", checkpoint_every=None).train()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]
    result = toy_runner(tmp_path, checkpoint_every=None).train()
    toy_runner(tmp_path / "right", checkpoint_every=None).train()
    assert result["status"] == "finished"
    assert lines(tmp_path) == lines(tmp_path / "right")


def test_the_best_checkpoint_holds_the_best_weights(tmp_path):
    class Rising(ToyTask):
        def evaluate(self, model, loader, context):
            return {"loss": {4: -2.0, 8: float("nan"), 12: -1.0}[context.step]}

    result = toy_runner(tmp_path, Rising(), checkpoint_every=None).train()
    assert (result["best"]["step"], result["best"]["value"]) == (4, -2.0)
    assert result["best"]["checkpoint"].endswith("step_00000004")
    assert [line["eval"]["val/loss"] for line in lines(tmp_path) if "eval" in line] == [-2.0, None, -1.0]


def test_evaluation_alone_writes_its_scores_and_leaves_the_model_in_its_mode(tmp_path):
    model = ToyModel().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with toy_runner(tmp_path, train=None, model=model, eval_batch_size=3) as runner:
        scores = runner.evaluate(step=7)
    assert scores["val/samples"] == 11.0
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content == {"step": 7, "metrics": scores, "bad_samples": []}
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (tmp_path / "samples.png").exists()


def test_scores_do_not_depend_on_batch_size_or_workers(tmp_path):
    one = toy_runner(tmp_path, train=None, eval_batch_size=1).evaluate()
    many = toy_runner(tmp_path, train=None, eval_batch_size=8, num_workers=2).evaluate()
    assert many == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"monitor": "vaal/loss"}, ConfigError, r"no evaluation set has that name\. Did you mean 'val'"),
        ({"train": None}, ConfigError, "nothing to train on"),
        ({"max_steps": None}, ConfigError, "length of training is missing"),
        ({"batch_size": 9, "grad_accum_steps": 3, "train": [ToyDataset(0)]}, DataError, "is empty"),
        ({"evals": {"val": ToyDataset(0)}}, DataError, "evaluation set 'val'"),
        ({"device": "cuda"}, ConfigError, "'auto' takes what there is"),
    ],
)
def test_what_cannot_run_is_said_before_it_starts(tmp_path, changes, error, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(error, match=message):
        toy_runner(tmp_path, **changes).train()


def test_a_run_without_evaluation_ends_with_its_last_checkpoint(tmp_path):
    result = toy_runner(tmp_path, evals={}, monitor=None, checkpoint_every=Duration(100, "steps")).train()
    assert (result["best"], result["metrics"]) == (None, {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000012"]


def test_a_part_that_is_frozen_in_eval_mode_stays_so(tmp_path):
    class Looks(ToyTask):
        def evaluate(self, model, loader, context):
            assert not any(module.training for module in model.modules())
            return super().evaluate(model, loader, context)

        def train_step(self, model, inputs, progress):
            seen.append([model.training, model.image.training, model.image[1].training, model.block.training])
            return super().train_step(model, inputs, progress)

    seen: list[list[bool]] = []
    model = ToyModel()
    model.image.eval()
    toy_runner(tmp_path, Looks(), model=model).train()
    assert seen == [[True, False, False, True]] * 12
    assert not model.image.training


@pytest.mark.parametrize("action", ["train", "evaluate"])
def test_weights_that_are_not_finite_are_named_before_the_first_step(tmp_path, action):
    model = ToyModel()
    model.block[0].bias.data[2] = float("nan")
    task = ToyTask()
    with pytest.raises(CheckpointError, match=r"before the first step: block\.0\.bias \(1 of 8 values\)"):
        getattr(toy_runner(tmp_path, task, model=model), action)()
    assert task.seen == []
