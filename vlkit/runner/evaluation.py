"""Scores of all evaluation sets, and the picture of samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vlkit.datasets.base import VLDataset, collate
from vlkit.datasets.loading import EvalLoader
from vlkit.errors import BadSample, DataError
from vlkit.runner.device import seed_all
from vlkit.runner.distributed import World
from vlkit.runner.modes import evaluating
from vlkit.runner.sample_grid import draw_samples
from vlkit.tasks.base import Batch, EvalContext, Task

logger = logging.getLogger(__name__)


class Interrupted(Exception):
    """An evaluation given up because the run is to stop; it is done again when the run is continued."""


class Evaluator:
    """Evaluates a task on named sets.

    Args:
        task: what scores mean.
        sets: evaluation sets by name; none of them empty.
        batch_size: samples a batch, per process.
        world: the processes.
        device: where the model is.
        autocast: makes the context of the run's precision.
        folder: where tasks write result files.
        seed: of what a task draws.
        num_workers: loader processes, per process.
    """

    def __init__(
        self,
        task: Task,
        sets: Mapping[str, VLDataset],
        batch_size: int,
        world: World,
        device: torch.device,
        autocast: Callable[[], Any],
        folder: Path,
        seed: int = 0,
        num_workers: int = 0,
    ):
        for name, dataset in sets.items():
            if len(dataset) == 0:
                raise DataError(f"evaluation set {name!r} ({type(dataset).__name__}) is empty.")
        self.task, self.sets, self.batch_size, self.world = task, dict(sets), batch_size, world
        self.device, self.autocast, self.folder, self.seed = device, autocast, folder, seed
        self.num_workers = num_workers
        self.bad: list[tuple[str, str, str]] = []

    def __call__(self, model: nn.Module, step: int, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """All scores under ``<set>/<score>``; the same in every process.

        Args:
            model: not wrapped.
            step: optimizer steps done.
            stop: asked before each batch whether to give up.

        Raises:
            Interrupted: ``stop`` said yes.
        """
        scores: dict[str, float] = {}
        with evaluating(model):
            for name in self.sets:
                found = self._evaluate(model, name, step, stop)
                scores.update({f"{name}/{key}": float(value) for key, value in found.items()})
        return scores

    def picture(
        self,
        model: nn.Module,
        count: int,
        name: str,
        step: int,
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> Path | None:
        """Draw the first images of a set with what the model says of them; for one process alone.

        Returns:
            The PNG, or None when the task describes nothing or samples have no image.
        """
        dataset = self.sets[name]
        samples = []
        for index in range(min(count, len(dataset))):
            try:
                samples.append(dataset.sample(index, np.random.default_rng([index])))
            except BadSample as error:
                logger.warning("left out of the picture: %s", error)
        if not samples or not all(torch.is_tensor(sample.get("image")) for sample in samples):
            return None
        with evaluating(model), torch.inference_mode():
            seed_all(self.seed, step)
            context = EvalContext(self.device, self.autocast, name=name, step=step, dataset=dataset)
            texts = self.task.describe(model, collate(samples), context)
        if not texts:
            return None
        path = self.folder / "samples.png"
        mean, std = normalization or (None, None)
        draw_samples([sample["image"] for sample in samples], texts, path, mean, std)
        return path

    def _evaluate(self, model: nn.Module, name: str, step: int, stop: Callable[[], bool]) -> dict[str, float]:
        loader = EvalLoader(
            self.sets[name],
            self.batch_size,
            self.world.rank,
            self.world.size,
            self.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        context = EvalContext(
            self.device,
            self.autocast,
            self.world.gather,
            self.world.rank,
            self.folder,
            name,
            step,
            self.sets[name],
        )
        seed_all(self.seed, step, self.world.rank)
        with torch.inference_mode():
            scores = self.task.evaluate(model, _Stoppable(loader, stop), context)
        self.bad += [(source, reason, f"evaluation set {name}") for source, reason in loader.bad]
        missing = int(self.world.sum([float(len(loader.bad))])[0])
        if missing and self.world.is_main:
            logger.warning(
                "%s: %d of %d samples could not be used and are not counted.",
                name,
                missing,
                len(self.sets[name]),
            )
        return scores


class _Stoppable:
    """A loader that gives up when asked to."""

    def __init__(self, loader: EvalLoader, stop: Callable[[], bool]):
        self.loader, self.stop = loader, stop

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if self.stop():
                raise Interrupted
            yield batch
