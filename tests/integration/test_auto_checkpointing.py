"""Two processes with different memory recompute the same blocks, however they share the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.device_memory import FakeMemory, Stack, auto_checkpointing, sizes
from tests.assets.two_ranks import in_two_ranks
from vlkit.config.schema import OptimConfig
from vlkit.runner.distributed import World
from vlkit.runner.parallel import share_model

CPU = torch.device("cpu")
STEPS = 4
ROWS = (6, 5)
"""Of each process: the larger counts decide too."""


class Lent(Stack):
    """Blocks whose weights FSDP lends one by one."""

    def image_blocks(self) -> list[torch.nn.Module]:
        return self.checkpoint_blocks()


class Half(FakeMemory):
    """FakeMemory for half of what the blocks would keep; later a byte less than that."""

    def spare(self) -> int:
        whole = sum(block.bytes for block in self.user.blocks)
        return whole // 2 if all(self.user.recomputed) else -1


def train(kind: str, world: World, memory: FakeMemory | None) -> dict[str, Any]:
    """Losses and norms of gradients, bytes of the blocks, and which of them were recomputed after each step."""
    model = Lent()
    parallel = share_model(kind, model, world, CPU)
    need = auto_checkpointing(model, memory, world=world) if memory else None
    wrapped = parallel.wrap()
    optimizer = parallel.optimizer(OptimConfig(lr=1e-3))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[str, Any] = {"losses": [], "norms": [], "recomputed": []}
    for step in range(STEPS):
        torch.manual_seed(2 * step + world.rank)
        loss = wrapped(torch.randn(ROWS[world.rank], 8))
        loss.backward()
        found["losses"].append(loss.item())
        found["norms"].append(parallel.clip(parameters, 1.0).item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if need is not None:
            need.after_step(check=True)
            found["sizes"] = [block.bytes for block in need.blocks]
            found["recomputed"].append(need.recomputed)
    return found


def child(rank: int, folder: Path) -> None:
    world = World()
    world.start(CPU)
    plain = train("ddp", world, None)
    found = {kind: train(kind, world, FakeMemory(10**9) if rank == 0 else Half(0)) for kind in ("ddp", "fsdp")}
    torch.save({"plain": plain, **found}, folder / f"{rank}.pt")
    world.finish()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("auto")
    in_two_ranks(child, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_process_with_the_least_memory_decides_for_both(found, kind):
    first, second = (each[kind] for each in found)
    assert first["recomputed"] == second["recomputed"]
    assert first["sizes"] == second["sizes"] == sizes(max(ROWS))
    start, chosen, later, _ = first["recomputed"]
    assert all(start)
    kept = sum(size for size, recomputed in zip(first["sizes"], chosen) if not recomputed)
    assert sum(first["sizes"]) // 4 < kept <= sum(first["sizes"]) // 2
    assert sum(later) == sum(chosen) + 1


@pytest.mark.parametrize(("kind", "tolerance"), [("ddp", 1e-7), ("fsdp", 1e-5)])
def test_losses_and_gradients_are_those_without(found, kind, tolerance):
    """FSDP adds gradients up in another order, whatever is recomputed."""
    for each in found:
        for name in ("losses", "norms"):
            assert each[kind][name] == pytest.approx(each["plain"][name], rel=tolerance), name
