"""One optimizer step: data -> loss -> backward -> step."""

from __future__ import annotations

import dataclasses
import time

import torch
from torch import Tensor

from vlkit.datasets.loading import BAD, TrainLoader
from vlkit.errors import VlkitError
from vlkit.runner.context import RunContext
from vlkit.runner.log import WAITED, MetricWindow
from vlkit.runner.optimizer import set_rate
from vlkit.runner.parallel import Parallel
from vlkit.tasks.base import Batch, Progress, Task

SAMPLES = "samples"
"""Count of a loss that the task gives no count for."""
_PREPARE, _FORWARD = 0, 1  # what a seed is for


class TrainStep:
    """Take optimizer steps. Their samples, and losses that are means over items, do not depend on how the global batch
    is divided among micro-batches and processes; losses that compare the samples of a batch see a micro-batch.

    Args:
        parallel: the wrapped model.
        task: turns batches into losses.
        loader: yields batches.
        optimizer: from :func:`~vlkit.runner.optimizer.build_optimizer`.
        window: collects losses.
        context: of the run.
        grad_clip: largest norm of the gradient; None or 0: not clipped.

    Attributes:
        bad: unusable samples as (source, reason, step), until they are reported.
    """

    def __init__(
        self,
        parallel: Parallel,
        task: Task,
        loader: TrainLoader,
        optimizer: torch.optim.Optimizer,
        window: MetricWindow,
        context: RunContext,
        grad_clip: float | None,
    ):
        self.parallel, self.task, self.loader, self.optimizer = parallel, task, loader, optimizer
        self.window, self.context, self.world, self.grad_clip = window, context, context.world, grad_clip
        self.bad: list[tuple[str, str, int]] = []
        self._count_names: list[str] | None = None
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        trained = {id(parameter) for parameter in self._parameters}
        self._frozen = [each for each in parallel.model.parameters() if id(each) not in trained]
        self._buffers = [(module._buffers, name) for module in parallel.model.modules() for name in module._buffers]
        self._before: list[tuple[int, int]] | None = None
        self._updating = False

    def __call__(self, progress: Progress, rate: float, signals: list[float]) -> list[float]:
        """Take a step.

        Args:
            progress: position of the run before the step.
            rate: learning rate.
            signals: numbers of this process, summed over all processes in the message that the step sends anyway.

        Returns:
            The sums of ``signals``.
        """
        started = time.perf_counter()
        batches = self._read(progress.step)
        waited = time.perf_counter() - started
        inputs = [self._prepare(batch, progress.step, micro) for micro, batch in enumerate(batches)]
        counts = [{SAMPLES: float(self.loader.per_process), **self.task.counts(each)} for each in inputs]
        totals, signals = self._reduce(counts, signals)

        values: dict[str, Tensor] = {}
        self._before = self._frozen_versions()
        for micro, (each, count) in enumerate(zip(inputs, counts)):
            here = dataclasses.replace(progress, micro=micro, micros=len(inputs))
            with self.parallel.gradient_sync(last=micro == len(inputs) - 1):
                loss = self._loss(each, here, count, totals, values)
                (loss * self.world.size).backward()  # the synchronization averages; the sum of all parts is wanted
            del loss  # and its graph, before the next forward pass

        self._updating = True
        values["grad_norm"] = self._update(rate) / self.world.size
        values[WAITED] = torch.full((), waited / self.world.size, device=self.context.device)
        self.window.add(progress.step + 1, values, _sample_ids(batches, progress.step))
        return signals

    def settled(self) -> None:
        """Mark the step as complete: it is counted, and its place in the data is recorded."""
        self._updating, self._before = False, None

    def intact(self) -> bool:
        """Return whether the model is as the last complete step left it. A step that failed may have moved weights, or
        what a forward pass moves itself: momentum encoders, queues, running means."""
        return not self._updating and (self._before is None or self._before == self._frozen_versions())

    def _frozen_versions(self) -> list[tuple[int, int]]:
        """List the tensors that the optimizer does not move, with the number of writes to each."""
        tensors = [*self._frozen, *(buffers[name] for buffers, name in self._buffers)]
        return [(id(each), each._version) for each in tensors if each is not None and not each.is_inference()]

    def _read(self, step: int) -> list[Batch]:
        batches = self.loader.next_step()
        for batch in batches:
            self.bad += [(source, reason, step + 1) for source, reason in batch.pop(BAD)]
        return batches

    def _prepare(self, batch: Batch, step: int, micro: int) -> Batch:
        self.context.seed_all(step, micro, self.world.rank, _PREPARE)
        return self.task.prepare(self.parallel.model, batch, self.context.device)

    def _reduce(self, counts: list[dict[str, float]], signals: list[float]) -> tuple[dict[str, float], list[float]]:
        """Sum the counts of the step over micro-batches, and over processes in one small message."""
        if self._count_names is None:
            self._count_names = sorted(set(self.world.gather([name for each in counts for name in each])))
        names = self._count_names
        unknown = {name for each in counts for name in each} - set(names)
        if unknown:
            raise VlkitError(
                f"{type(self.task).__name__}.counts() gives {', '.join(sorted(unknown))}, which it did not "
                "give in the first step. It must name the same losses in every step; a count may be 0."
            )
        own = [float(sum(each.get(name, 0.0) for each in counts)) for name in names]
        sums = self.world.sum(own + signals)
        return dict(zip(names, sums)), sums[len(names) :]

    def _loss(
        self,
        inputs: Batch,
        progress: Progress,
        counts: dict[str, float],
        totals: dict[str, float],
        values: dict[str, Tensor],
    ) -> Tensor:
        """Return this micro-batch's part of the loss; add its part of each loss and metric to ``values``."""
        self.context.seed_all(progress.step, progress.micro, self.world.rank, _FORWARD)
        with self.context.autocast():
            output = self.task.train_step(self.parallel.wrapped, inputs, progress)
        parts = {name: loss.float() * _share(name, counts, totals) for name, loss in output.losses.items()}
        total = torch.stack(list(parts.values())).sum()
        found = {"loss": total, **{f"losses/{name}": part for name, part in parts.items()}}
        share = counts[SAMPLES] / totals[SAMPLES]
        for name, metric in output.metrics.items():
            found[f"metrics/{name}"] = torch.as_tensor(metric, dtype=torch.float32, device=self.context.device) * share
        for name, value in found.items():
            values[name] = values[name] + value.detach() if name in values else value.detach()
        return total

    def _update(self, rate: float) -> Tensor:
        """Clip, step and drop the gradients; return the norm of the gradient before clipping."""
        norm = self.parallel.clip(self._parameters, self.grad_clip)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def _share(name: str, counts: dict[str, float], totals: dict[str, float]) -> float:
    """Return the share of a mean loss's items that this micro-batch of this process holds."""
    counted = name if name in totals else SAMPLES
    return counts.get(counted, 0.0) / totals[counted] if totals[counted] else 0.0


def _sample_ids(batches: list[Batch], step: int) -> list[str]:
    ids = [str(each) for batch in batches for each in batch.get("sample_id", ())]
    return ids or [f"all of step {step + 1} (its samples have no sample_id)"]
