from __future__ import annotations

import json

import pytest
import torch

from tests.assets.run_files import pretrain_run, write
from tests.assets.toy import ToyDataset, ToyModel, ToyTask, lines, toy_runner
from vlkit.config.durations import Duration
from vlkit.datasets.base import collate
from vlkit.datasets.mixture import Mixture
from vlkit.errors import VlkitError
from vlkit.jobs.train import TrainJob
from vlkit.models.blip.contrastive import BlipContrastive
from vlkit.runner.checkpoint import MODEL, load_tensors
from vlkit.runner.log import NonFinite


def weights(folder, step=12):
    return load_tensors(folder / "checkpoints" / f"step_{step:08d}" / MODEL)


def test_micro_batches_make_the_step_of_the_whole_batch(tmp_path):
    for grad_accum_steps in (1, 4):
        task, model = ToyTask(near=0.0), ToyModel(dropout=0.0)
        toy_runner(tmp_path / str(grad_accum_steps), task, model=model, grad_accum_steps=grad_accum_steps).train()
    one, four = weights(tmp_path / "1"), weights(tmp_path / "4")
    for name in ("embed.weight", "block.0.weight", "image.0.weight"):
        torch.testing.assert_close(one[name], four[name], rtol=1e-4, atol=2e-5)
    for mine, theirs in zip(lines(tmp_path / "1"), lines(tmp_path / "4")):
        if "losses" in mine:
            assert theirs["losses"] == pytest.approx(mine["losses"], rel=1e-5)


def test_the_first_step_is_the_hand_made_one(tmp_path):
    """Loss as the mean over all tokens, clipped gradient, AdamW: written out."""
    changes = {"max_steps": 1, "grad_accum_steps": 2, "schedule": "constant", "warmup": Duration(0, "steps")}
    toy_runner(tmp_path, ToyTask(near=0.0), model=ToyModel(dropout=0.0), **changes).train()

    model, task = ToyModel(dropout=0.0), ToyTask()
    stream = Mixture([ToyDataset(21, "a"), ToyDataset(13, "b")], [2.0, 1.0], seed=3)
    samples = [stream.datasets[key[0]].sample(key[2], stream.rng(key)) for key in stream.take([0, 0], 8)]
    inputs = task.prepare(model, collate(samples), torch.device("cpu"))
    loss = model(**inputs, update=False)["lm"]
    loss.backward()
    parameters = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.05).step()
    (line,) = lines(tmp_path)[:1]
    assert line["losses"]["lm"] == pytest.approx(loss.item(), rel=1e-5)
    assert line["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    torch.testing.assert_close(weights(tmp_path, 1)["embed.weight"], model.embed.weight.data, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_before_any_checkpoint_of_it(tmp_path):
    with pytest.raises(NonFinite, match="step 7"):
        toy_runner(tmp_path, ToyTask(poison=6), log_every=5).train()
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert found["step"] == 7
    assert len(found["sample_ids"]) == 8
    steps = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert steps == ["step_00000004"]
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path, 4).values())
    assert toy_runner(tmp_path, log_every=5).train()["status"] == "finished"


def test_counts_must_name_the_same_losses_in_every_step(tmp_path):
    class Fickle(ToyTask):
        def counts(self, inputs):
            return {"lm": 1.0, **({"late": 1.0} if len(self.seen) > 2 else {})}

    with pytest.raises(VlkitError, match=r"Fickle\.counts\(\) gives late"):
        toy_runner(tmp_path, Fickle()).train()


def test_a_step_depends_on_its_number_and_not_on_what_was_drawn_before(tmp_path):
    for name, draws in (("plain", 0), ("drawn", 7)):

        class Drawing(ToyTask):
            drawn = draws

            def train_step(self, model, inputs, progress):
                output = super().train_step(model, inputs, progress)
                torch.rand(self.drawn)
                return output

        toy_runner(tmp_path / name, Drawing(), max_steps=3).train()
    assert lines(tmp_path / "plain") == lines(tmp_path / "drawn")


def test_bfloat16_trains_close_to_float32(tmp_path):
    for precision in ("fp32", "bf16"):
        toy_runner(tmp_path / precision, precision=precision).train()
    exact, rough = ([line["loss"] for line in lines(tmp_path / each) if "loss" in line] for each in ("fp32", "bf16"))
    assert exact != rough
    assert rough == pytest.approx(exact, rel=0.1)


def blip_steps(folder, grad_accum_steps, monkeypatch, steps=2, size=4):
    """Real pre-training steps of the real ``TrainStep``; how often momentum encoders moved, and the model."""
    moved = []
    file = folder / f"run_{grad_accum_steps}.yaml"
    run = pretrain_run(grad_accum_steps=grad_accum_steps, batch_size=size, max_steps=steps, duration=None, check=False)
    run["datasets"]["eval"] = {}
    job = TrainJob.load(write(file, run), [f"run.output_dir={folder / str(grad_accum_steps)}"])
    move = BlipContrastive.move_momentum

    def count(model):
        moved.append((int(model.queue_ptr), model.visual_encoder_m.cls_token.clone()))
        move(model)

    with monkeypatch.context() as patched:
        patched.setattr(BlipContrastive, "move_momentum", count)
        with job.make_runner(job.prepare()) as runner:
            runner.train()
            return moved, runner.model


@pytest.mark.parametrize("grad_accum_steps", [1, 2, 4])
def test_momentum_encoders_move_once_a_step_and_before_its_first_micro_batch(tmp_path, monkeypatch, grad_accum_steps):
    size, steps, queue = 8, 2, 16
    moved, model = blip_steps(tmp_path, grad_accum_steps, monkeypatch, steps, size)
    assert [pointer for pointer, _ in moved] == [step * size % queue for step in range(steps)]
    assert int(model.queue_ptr) == steps * size % queue  # every pair joins the queue once
    metrics = [line["metrics"] for line in lines(tmp_path / str(grad_accum_steps)) if "loss" in line]
    assert [each["queue_age"] for each in metrics] == pytest.approx([queue / size] * steps)


def test_the_first_step_moves_the_momentum_encoders_alike_however_it_is_cut(tmp_path, monkeypatch):
    """Before the first step they are copies, so they move in the second; after it they hold the same average."""
    (_, whole), (_, four) = (blip_steps(tmp_path, n, monkeypatch, steps=1, size=8) for n in (1, 4))
    for name, parameter in whole.named_parameters():
        if "_m." in name:
            assert torch.equal(parameter, dict(four.named_parameters())[name]), name


class Counting(ToyTask):
    """Notes the micro-batches that it is given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def train_step(self, model, inputs, progress):
        self.given.append((progress.step, progress.micro, progress.micros))
        return super().train_step(model, inputs, progress)


def test_a_task_is_given_the_place_of_each_micro_batch(tmp_path):
    task = Counting()
    toy_runner(tmp_path, task, grad_accum_steps=4, max_steps=2).train()
    assert task.given == [(step, micro, 4) for step in range(2) for micro in range(4)]
