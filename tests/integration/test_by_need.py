"""Two processes with different memory recompute the same blocks, however they share the model."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.room import Room, by_need
from tests.integration.test_distributed import finish
from tests.integration.test_parallel import samples
from vlkit.api import load_model
from vlkit.config.schema import OptimConfig
from vlkit.runner.distributed import World
from vlkit.runner.parallel import share_model

CPU = torch.device("cpu")
STEPS = 3


class Half(Room):
    """Room for half of what the blocks would keep."""

    def spare(self) -> int:
        return sum(block.bytes for block in self.by_need.blocks) // 2


def pretrain(kind: str, world: World, memory: Room | None) -> dict[str, Any]:
    """Losses and norms of gradients, bytes of the blocks, and which of them are recomputed."""
    torch.manual_seed(0)
    model = load_model("blip_pretrain", "tiny", is_eval=False)
    model.draw_negative = lambda weights: weights.argmax(1)
    parallel = share_model(kind, model, world, CPU)
    need = by_need(model, memory, world=world) if memory else None
    wrapped = parallel.wrap()
    optimiser = parallel.optimiser(OptimConfig(lr=1e-3))
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    found: dict[str, Any] = {"losses": [], "norms": []}
    for step in range(STEPS):
        torch.manual_seed(2 * step + world.rank)
        out = wrapped(samples(step, 4 * world.rank, 4), alpha=0.4)
        out.loss.backward()
        found["losses"].append(out.loss.item())
        found["norms"].append(parallel.clip(parameters, 1.0).item())
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if need is not None:
            need.after_step(look=False)
            found |= {"sizes": [block.bytes for block in need.blocks], "recomputed": need.recomputed}
    return found


def child(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    world = World()
    world.start(CPU)
    plain = pretrain("ddp", world, None)
    found = {kind: pretrain(kind, world, Room(10**9) if rank == 0 else Half(0)) for kind in ("ddp", "fsdp")}
    torch.save({"plain": plain, **found}, folder / f"{rank}.pt")
    world.finish()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("by_need")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "vlkit.pipeline", __name__])
    processes = [context.Process(target=child, args=(rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    assert finish(processes) == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_process_with_the_least_memory_decides_for_both(found, kind):
    first, second = (each[kind] for each in found)
    assert first["recomputed"] == second["recomputed"]
    assert first["sizes"] == second["sizes"]
    kept = sum(size for size, recomputed in zip(first["sizes"], first["recomputed"]) if not recomputed)
    assert sum(first["sizes"]) // 4 < kept <= sum(first["sizes"]) // 2


@pytest.mark.parametrize(("kind", "tolerance"), [("ddp", 1e-7), ("fsdp", 2e-4)])
def test_losses_and_gradients_are_those_without(found, kind, tolerance):
    """FSDP adds gradients up in another order, whatever is recomputed."""
    for each in found:
        for name in ("losses", "norms"):
            assert each[kind][name] == pytest.approx(each["plain"][name], rel=tolerance), name


def test_weights_that_fsdp_lends_are_no_activations(found):
    assert found[0]["fsdp"]["sizes"] == found[0]["ddp"]["sizes"]
