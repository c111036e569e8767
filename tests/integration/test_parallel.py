"""However two processes share a model, they take the same steps, and their checkpoints are the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.assets.toy import ToyModel, ToyTask, lines, toy_runner
from tests.assets.two_ranks import in_two_ranks
from tests.integration.test_distributed import PLAIN, finish, launch
from vlkit.api import load_model
from vlkit.config.schema import OptimConfig
from vlkit.datasets.base import collate
from vlkit.datasets.shapes.dataset import Shapes
from vlkit.runner.checkpoint import MODEL, OPTIMIZER, Checkpoints, load_tensors, restore
from vlkit.runner.distributed import World
from vlkit.runner.parallel import share_model

CPU = torch.device("cpu")
STEPS = 2


def samples(step: int, first: int, count: int) -> dict[str, Any]:
    dataset = Shapes(size=200)
    return collate([dataset[16 * step + i] for i in range(first, first + count)])


def pretrain(kind: str, world: World, folder: Path) -> None:
    """Steps of pre-training, clipped; leaves losses, features of the evaluated model and a checkpoint."""
    torch.manual_seed(0)
    model = load_model("blip_pretrain", "tiny", is_eval=False)
    model.draw_negative = lambda weights: weights.argmax(1)
    model.momentum = 0.5
    parallel = share_model(kind, model, world, CPU)
    wrapped = parallel.wrap()
    optimizer = parallel.optimizer(OptimConfig(lr=1e-3, fused=True))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[str, Any] = {"losses": [], "norms": [], "temperatures": []}
    for step in range(STEPS):
        for micro in range(2):
            with parallel.gradient_sync(last=micro == 1):
                out = wrapped(samples(step, 4 * (2 * micro + world.rank), 4), alpha=0.4, update=micro == 0)
                (out.loss / 2).backward()
        found["norms"].append(parallel.clip(parameters, 1.0).item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found["losses"].append(world.sum([out.loss.item()])[0])
        found["temperatures"].append(out.temperature.item())
    with parallel.unsharded() as whole, torch.inference_mode():
        found["features"] = whole.eval().image_feats(whole.image_embeds(samples(9, 0, 4)))
    weights, state = parallel.weights(), parallel.optimizer_state(optimizer)
    world.on_main(lambda: Checkpoints(folder / kind).write(weights, state, {"step": STEPS}))
    restore(folder / kind / f"step_{STEPS:08d}", model, optimizer)
    again = parallel.weights(), parallel.optimizer_state(optimizer)
    if world.is_main:
        assert all(torch.equal(old[name], new[name]) for old, new in zip((weights, state), again) for name in old)
        torch.save(found, folder / f"{kind}.pt")


def child(rank: int, folder: Path) -> None:
    world = World()
    world.start(CPU)
    for kind in ("ddp", "fsdp", "oss"):
        pretrain(kind, world, folder)
    world.finish()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    in_two_ranks(child, folder)
    return folder


@pytest.mark.parametrize("kind", ["fsdp", "oss"])
def test_pre_training_takes_the_steps_of_ddp(found, kind):
    expected, mine = torch.load(found / "ddp.pt"), torch.load(found / f"{kind}.pt")
    for name, values in expected.items():
        torch.testing.assert_close(torch.as_tensor(mine[name]), torch.as_tensor(values), rtol=2e-4, atol=1e-5, msg=name)
    for file in (MODEL, OPTIMIZER):
        theirs, ours = (load_tensors(found / each / f"step_{STEPS:08d}" / file) for each in ("ddp", kind))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_momentum_encoders_moved(found):
    weights = load_tensors(found / "fsdp" / f"step_{STEPS:08d}" / MODEL)
    torch.manual_seed(0)
    start = load_model("blip_pretrain", "tiny", is_eval=False).state_dict()
    name = "visual_encoder_m.blocks.0.mlp.fc1.weight"
    assert (weights[name] - start[name]).abs().max() > 1e-4
    assert not torch.equal(weights[name], weights[name.replace("_m.", ".")])


def test_a_run_resumes_with_another_kind_and_number_of_processes(tmp_path):
    """Some steps in one process, some in two with FSDP, some in two with OSS, the last in one: as if nothing was."""
    toy_runner(tmp_path / "straight", ToyTask(near=0.0), model=ToyModel(dropout=0.0)).train()
    folder = tmp_path / "parts"
    toy_runner(folder, ToyTask(near=0.0, signal_at=2), model=ToyModel(dropout=0.0)).train()
    for kind, stop in (("fsdp", 5), ("oss", 9)):
        assert finish(launch(folder, parallel=kind, grad_accum_steps=2, signal_at=stop, **PLAIN)) == [143, 143]
    toy_runner(folder, ToyTask(near=0.0), model=ToyModel(dropout=0.0)).train()
    straight, parts = lines(tmp_path / "straight"), lines(folder)
    assert [line["step"] for line in parts] == [line["step"] for line in straight]
    for mine, theirs in zip(parts, straight):
        for key in {"loss", "grad_norm", "losses", "eval", "lr"} & set(theirs):
            assert mine[key] == pytest.approx(theirs[key], rel=5e-5, abs=1e-6), (theirs["step"], key)
