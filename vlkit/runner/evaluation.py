"""Evaluate a model on all evaluation sets, and draw samples of one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vlkit.datasets.base import VLDataset, collate
from vlkit.datasets.loading import EvalLoader
from vlkit.errors import BadSample, DataError
from vlkit.runner.context import RunContext
from vlkit.runner.model_state import evaluating
from vlkit.runner.plots import draw_sample_grid
from vlkit.tasks.base import Batch, EvalContext, Task

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """The evaluation ended early because the run stops; a resumed run repeats it."""


class Evaluator:
    """Evaluates a task on named sets.

    Args:
        task: computes scores.
        sets: evaluation sets by name, not empty.
        batch_size: samples a batch, per process.
        context: of the run; tasks write result files into its output folder.
        num_workers: loader processes, per process.
    """

    def __init__(
        self,
        task: Task,
        sets: Mapping[str, VLDataset],
        batch_size: int,
        context: RunContext,
        num_workers: int = 0,
    ):
        for name, dataset in sets.items():
            if len(dataset) == 0:
                raise DataError(f"evaluation set {name!r} ({type(dataset).__name__}) is empty.")
        self.task, self.sets, self.batch_size = task, dict(sets), batch_size
        self.context, self.num_workers = context, num_workers
        self.bad: list[tuple[str, str, str]] = []

    def __call__(self, model: nn.Module, step: int, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Return all scores under ``<set>/<score>``, the same in every process.

        Args:
            model: not wrapped.
            step: optimizer steps done.
            stop: polled before each batch; return True to end the evaluation.

        Raises:
            Interrupted: ``stop`` returned True.
        """
        scores: dict[str, float] = {}
        with evaluating(model):
            for name in self.sets:
                found = self._evaluate(model, name, step, stop)
                scores.update({f"{name}/{key}": float(value) for key, value in found.items()})
        return scores

    def draw_samples(self, model: nn.Module, count: int, name: str, step: int) -> Path | None:
        """Draw the first images of a set with the model's texts for them; for one process alone.

        Returns:
            The PNG, or None when the task describes nothing or samples have no image.
        """
        dataset = self.sets[name]
        samples = []
        for index in range(min(count, len(dataset))):
            try:
                samples.append(dataset.sample(index, np.random.default_rng([index])))
            except BadSample as error:
                logger.warning("left out of samples.png: %s", error)
        if not samples or not all(torch.is_tensor(sample.get("image")) for sample in samples):
            return None
        with evaluating(model), torch.inference_mode():
            self.context.seed_all(step)
            context = EvalContext(self.context.device, self.context.autocast, name=name, step=step, dataset=dataset)
            texts = self.task.describe(model, collate(samples), context)
        if not texts:
            return None
        path = self.context.output.path / "samples.png"
        draw_sample_grid([sample["image"] for sample in samples], texts, path, *_normalization(dataset))
        return path

    def _evaluate(self, model: nn.Module, name: str, step: int, stop: Callable[[], bool]) -> dict[str, float]:
        world, device = self.context.world, self.context.device
        dataset, pin_memory = self.sets[name], device.type == "cuda"
        loader = EvalLoader(dataset, self.batch_size, world.rank, world.size, self.num_workers, pin_memory=pin_memory)
        folder, autocast = self.context.output.path, self.context.autocast
        context = EvalContext(device, autocast, world.gather, world.rank, folder, name, step, dataset)
        self.context.seed_all(step, world.rank)
        with torch.inference_mode():
            scores = self.task.evaluate(model, _Stoppable(loader, stop), context)
        self.bad += [(source, reason, f"evaluation set {name}") for source, reason in loader.bad]
        missing = int(world.sum([float(len(loader.bad))])[0])
        if missing and world.is_main:
            text = "%s: %d of %d samples could not be used and are not counted."
            logger.warning(text, name, missing, len(dataset))
        return scores


def _normalization(dataset: VLDataset) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and standard deviation of the images' channels, if their processor normalizes them."""
    normalize: Any = getattr(getattr(dataset, "image_processor", None), "normalize", None)
    if normalize is None:
        return None, None
    return torch.as_tensor(normalize.mean).flatten().tolist(), torch.as_tensor(normalize.std).flatten().tolist()


class _Stoppable:
    """A loader that raises Interrupted when asked to stop."""

    def __init__(self, loader: EvalLoader, stop: Callable[[], bool]):
        self.loader, self.stop = loader, stop

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if self.stop():
                raise Interrupted
            yield batch
