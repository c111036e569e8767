"""BLIP in two processes takes the steps of one on the same global batch, where the loss allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.assets.run_files import pretrain_run, write
from tests.assets.two_ranks import in_two_ranks
from vlkit.api import load_model
from vlkit.cli import main
from vlkit.datasets.base import collate
from vlkit.datasets.shapes.dataset import Shapes

ALPHA = 0.4


def samples(first: int, count: int) -> dict[str, Any]:
    dataset = Shapes(size=100)
    return collate([dataset[i] for i in range(first, first + count)])


def contrast(first: int, count: int) -> dict[str, torch.Tensor]:
    """Loss of the contrast alone on part of a batch, its gradients and the queue afterwards."""
    torch.manual_seed(0)
    model = load_model("blip_pretrain", "tiny", is_eval=False)
    torch.manual_seed(1)  # momentum encoders of their own, as after some steps
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data.add_(0.02 * torch.randn(parameter.shape))
    loss = model(samples(first, count), alpha=ALPHA).loss_itc
    loss.backward()
    wanted = ("vision_proj.weight", "text_proj.weight", "temp", "visual_encoder.pos_embed")
    found = {name: p.grad for name, p in model.named_parameters() if name in wanted}
    return {**found, "loss": loss.detach(), "queue": model.text_queue, "pointer": model.queue_ptr}


def retrieval(first: int, count: int) -> dict[str, torch.Tensor]:
    """Both losses of retrieval on part of a batch in which pairs share images, negatives from all processes, and
    gradients."""
    torch.manual_seed(0)
    model = load_model("blip_retrieval", "tiny", is_eval=False)
    model.negative_all_rank = True
    model.draw_negative = lambda weights: weights.argmax(1)
    batch = samples(first, count)
    batch["image_id"] = [f"scene {i % 5}" for i in range(first, first + count)]
    out = model(batch, alpha=ALPHA)
    out.loss.backward()
    wanted = ("text_proj.weight", "itm_head.weight", "visual_encoder.pos_embed", "visual_encoder.cls_token")
    found = {name: p.grad for name, p in model.named_parameters() if name in wanted}
    losses = {"loss_itc": out.loss_itc.detach(), "loss_itm": out.loss_itm.detach()}
    return {**found, **losses, "queue": model.idx_queue, "pointer": model.ptr_queue}


PARTS = {"contrast": contrast, "retrieval": retrieval}


def child(rank: int, folder: Path, work: str) -> None:
    if work in PARTS:
        dist.init_process_group("gloo", rank=rank, world_size=2)
        torch.save(PARTS[work](8 * rank, 8), folder / f"{rank}.pt")
        dist.destroy_process_group()
    else:
        assert main(["train", str(folder / "run.yaml"), "--output", str(folder / "two")]) == 0


@pytest.mark.parametrize("work", PARTS)
def test_parts_of_a_batch_make_the_whole(tmp_path, work):
    in_two_ranks(child, tmp_path, work)
    one = PARTS[work](0, 16)
    two = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, expected in one.items():
        if name in ("queue", "pointer"):
            for part in two:
                torch.testing.assert_close(part[name], expected, msg=name)
        else:
            mean = (two[0][name] + two[1][name]) / 2
            torch.testing.assert_close(mean, expected, rtol=2e-5, atol=2e-6, msg=name)


def test_captioning(tmp_path):
    """Captions of unequal length: the mean over tokens is that of the whole batch, not of the processes' means."""
    run = pretrain_run()
    run["model"] = {"name": "blip_caption", "type": "tiny"}
    run["task"] = {"name": "captioning"}
    run["run"] |= {
        "batch_size": 8,
        "duration": 5,
        "grad_accum_steps": 2,
        "log_every": 1,
        "sample_images": 0,
        "monitor": None,
    }
    write(tmp_path / "run.yaml", run)
    assert main(["train", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "one"), "run.grad_accum_steps=1"]) == 0
    in_two_ranks(child, tmp_path, "captioning")
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two)
    for mine, theirs in zip(one, two):
        if "losses" in mine:
            assert theirs["losses"] == pytest.approx(mine["losses"], rel=1e-4), mine["step"]
            assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)
        else:
            assert theirs["eval"]["val/length"] == pytest.approx(mine["eval"]["val/length"], rel=0.05)
