"""Retrieval with hard negatives from all processes, in as many real processes as the case has, under DDP."""

import multiprocessing
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.parity.golden import Case, check_gradients
from tests.parity.test_retrieval import build


def idx_queue(case: Case) -> torch.Tensor:
    """What the case tells in words: some numbers from the front, then one that fills the rest."""
    front, fill = re.findall(r"[-\d, ]+", case.info["idx_queue_before"].replace("then", "|"))
    queue = torch.full((1, case.info["config"]["queue_size"]), int(fill))
    numbers = [int(number) for number in re.findall(r"-?\d+", front)]
    queue[0, : len(numbers)] = torch.tensor(numbers)
    return queue


def three_steps(case: Case, rank: int) -> dict[str, Any]:
    """What one process computes."""
    model = build(case, 35, idx_queue(case))
    wrapped = DistributedDataParallel(model)
    samples = {
        "image": case.input(f"input.retrieval_all_rank.image.rank{rank}"),
        "text_input": case.info["texts_by_process"][rank],
        "image_id": case[f"idx_rank{rank}"],
    }
    optimizer = torch.optim.AdamW(model.parameters(), **case.said("losses", "lr", "weight_decay"))
    found: dict[str, Any] = {"losses": []}
    for step in range(len(case["losses"])):
        out = wrapped(samples, alpha=case.info["alpha"])
        found["losses"].append(torch.stack([out.loss_itc, out.loss_itm]).detach())
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            found["itm_logits"] = out.itm_logits
            found["state"] = {name: value.clone() for name, value in model.state_dict().items()}
            found["gradients"] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            found["without"] = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        optimizer.step()
    return found


def process(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=120))
    torch.save(three_steps(Case("retrieval_all_rank"), rank), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def case() -> Case:
    return Case("retrieval_all_rank")


@pytest.fixture(scope="module")
def found(case, tmp_path_factory) -> list[dict[str, Any]]:
    """By process."""
    folder = tmp_path_factory.mktemp("processes")
    size = len(case.info["texts_by_process"])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", __name__])
    processes = [context.Process(target=process, args=(rank, size, folder)) for rank in range(size)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(240)
    assert [one.exitcode for one in processes] == [0] * size
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def test_losses(case, found):
    losses = torch.stack([torch.stack(one["losses"]) for one in found], 1)
    case.expect_close("losses", losses[:1], case["losses"][:1])
    torch.testing.assert_close(losses, case["losses"], atol=2e-3, rtol=0)


def test_logits_and_queues(case, found):
    for rank, one in enumerate(found):
        case.expect(f"itm_logits_rank{rank}", one["itm_logits"])
        for name in ("image_queue", "text_queue", "idx_queue", "ptr_queue"):
            case.expect(f"after_step_1.{name}", one["state"][name])


def test_gradients(case, found):
    for one in found:
        parameters = {}
        for name, gradient in one["gradients"].items():
            parameters[name] = torch.nn.Parameter(torch.empty_like(gradient))
            parameters[name].grad = gradient
        check_gradients(case, parameters, key="gradients_averaged")
        assert set(one["without"]) == set(case.info["parameters_without_gradient"])
