"""Count on the CPU what would wait for a GPU in evaluations, re-ranking and training steps.

``python -m benchmarks fake_cuda RUN`` prints the counts, with the lines of vlkit that they come from.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from unittest import mock

import torch

from benchmarks.fake_cuda import CUDA, FakeCuda
from vlkit import TASKS, load_dataset, load_model
from vlkit.config.schema import OptimConfig
from vlkit.datasets.loading import EvalLoader, TrainLoader
from vlkit.datasets.mixture import Mixture
from vlkit.models.generation import cuda_graphs, use_cuda_graphs
from vlkit.tasks.base import EvalContext, Progress

HEADS = {
    "caption": ("blip_caption", "captioning", "shapes"),
    "vqa": ("blip_vqa", "vqa", "shapes_vqa"),
    "nlvr": ("blip_nlvr", "nlvr", "shapes_nlvr"),
    "dialog": ("blip_dialog", "visdial", "shapes_dialog"),
    "retrieval": ("blip_retrieval", "retrieval", "shapes"),
    "pretrain": ("blip_pretrain", "pretrain", "shapes"),
}
"""Model, task and dataset, by head."""


def evaluate(
    head: str, size: int = 32, batch: int = 8, graphs: bool = False, **options: object
) -> tuple[dict, FakeCuda]:
    """Evaluate the ``tiny_shapes`` model of a head.

    Args:
        head: a key of :data:`HEADS`.
        size: samples.
        batch: samples at a time.
        graphs: decode in fixed shapes, as with CUDA graphs.
        options: of the task.

    Returns:
        The scores, and the device with its counts.
    """
    name, task, dataset = HEADS[head]
    model, data = load_model(name, "tiny_shapes"), load_dataset(dataset, split="test", size=size)
    with FakeCuda() as fake, _graphs_without_capture(graphs), torch.no_grad():
        use_cuda_graphs(model, graphs)
        fake.move(model)
        context = EvalContext(CUDA, contextlib.nullcontext, dataset=data)
        scores = TASKS.get(task)(**options).evaluate(model, EvalLoader(data, batch), context)
    return scores, fake


@contextlib.contextmanager
def _graphs_without_capture(wanted: bool):
    """Run the steps of the fixed-shape path as they are, where a GPU would replay a graph."""
    start = cuda_graphs.CapturedStep.__init__
    with (
        mock.patch.object(cuda_graphs, "pays", return_value=wanted),
        mock.patch.object(cuda_graphs.CapturedStep, "__init__", lambda self, _: start(self, torch.device("cpu"))),
    ):
        yield


def train(head: str, steps: int = 2, batch: int = 8) -> tuple[dict[str, float], FakeCuda]:
    """Take training steps with the tiny model of a head.

    Returns:
        The losses, and the device with the counts of the last step.
    """
    from vlkit.runner.context import RunContext
    from vlkit.runner.distributed import World
    from vlkit.runner.log import MetricWindow
    from vlkit.runner.parallel import Parallel
    from vlkit.runner.train_step import TrainStep

    name, task, dataset = HEADS[head]
    model, data = load_model(name, "tiny", is_eval=False), load_dataset(dataset, split="train")
    world = World()
    with FakeCuda() as fake:
        fake.move(model)
        parallel, window = Parallel(model, world, CUDA), MetricWindow(world)
        context = mock.create_autospec(RunContext, instance=True)
        context.world, context.device, context.seed = world, CUDA, 0
        context.autocast = contextlib.nullcontext
        optimizer = parallel.optimizer(OptimConfig(lr=1e-4))
        loader = TrainLoader(Mixture([data], seed=0), batch)
        step = TrainStep(parallel, TASKS.get(task)(), loader, optimizer, window, context, None)
        for number in range(steps):
            fake.counts = type(fake.counts)()
            step(Progress(number, steps, 100.0, number * batch), 1e-4, [])
        losses = window.close()
    return losses, fake


def _evaluations() -> None:
    for head in HEADS:
        options = {"rerank_top_k": 8} if head in ("retrieval", "pretrain") else {}
        scores, fake = evaluate(head, **options)
        print(scores, fake.report(f"evaluation, {head}"), sep="\n", end="\n\n")


def _generate() -> None:
    for graphs in (False, True):
        scores, fake = evaluate("caption", graphs=graphs)
        print(scores, fake.report(f"captions, {'fixed shapes' if graphs else 'step by step'}"), sep="\n", end="\n\n")


def _rerank() -> None:
    scores, fake = evaluate("retrieval", size=64, rerank_top_k=16)
    print(scores, fake.report("re-ranking"), sep="\n")


def _train_step() -> None:
    for head in HEADS:
        losses, fake = train(head)
        print(losses, fake.report(f"training step, {head}"), sep="\n", end="\n\n")


RUNS: dict[str, Callable[[], None]] = {
    "evaluate": _evaluations,
    "generate": _generate,
    "rerank": _rerank,
    "train_step": _train_step,
}


def main(argv: Sequence[str]) -> int:
    """Print the counts of the run that ``argv`` names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fake_cuda", description=__doc__)
    parser.add_argument("run", choices=RUNS)
    RUNS[parser.parse_args(argv).run]()
    return 0
