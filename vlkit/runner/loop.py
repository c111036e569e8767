"""One optimizer step: data -> loss -> backward -> step."""

from __future__ import annotations

import dataclasses
import time

import torch
from torch import Tensor, nn

from vlkit.datasets.loading import BAD, TrainLoader
from vlkit.errors import VlkitError
from vlkit.runner.context import RunContext
from vlkit.runner.metric_window import Window
from vlkit.runner.optimizer import set_rate
from vlkit.runner.parallel import Parallel
from vlkit.tasks.base import Batch, Progress, StepOutput, Task

SAMPLES = "samples"
"""What a loss counts whose items the task does not name."""
WAITED = "waited_for_data"
"""Seconds of a step, mean over processes."""
_PREPARE, _FORWARD = 0, 1  # which use of random numbers a seed is for


class TrainStep:
    """Makes optimizer steps. Their samples, and losses that are means over items, do not depend on how the global batch
    is divided among micro-batches and processes; losses that compare samples of a batch see those of a micro-batch.

    Args:
        parallel: how the processes share the model.
        model: what ``parallel`` made of it, to be called.
        task: what a batch means.
        loader: where batches come from.
        optimizer: from :func:`~vlkit.runner.optimizer.build_optimizer`.
        window: where losses are noted.
        context: of the run.
        grad_clip: largest norm of the gradient; None or 0: not clipped.
    """

    def __init__(
        self,
        parallel: Parallel,
        model: nn.Module,
        task: Task,
        loader: TrainLoader,
        optimizer: torch.optim.Optimizer,
        window: Window,
        context: RunContext,
        grad_clip: float | None,
    ):
        self.parallel, self.task, self.loader, self.optimizer = parallel, task, loader, optimizer
        self.window, self.context, self.world, self.grad_clip = window, context, context.world, grad_clip
        self.bad: list[tuple[str, str, int]] = []
        self.model = model
        self._count_names: list[str] | None = None
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._frozen = [each for each in parallel.model.parameters() if id(each) not in trained]
        self._buffers = [(module._buffers, name) for module in parallel.model.modules() for name in module._buffers]
        self._before: list[tuple[int, int]] | None = None
        self._updating = False

    def __call__(self, progress: Progress, rate: float, signals: list[float]) -> list[float]:
        """Take the step.

        Args:
            progress: where the run is before it.
            rate: learning rate.
            signals: numbers of this process to be added up over all, on the way.

        Returns:
            The sums of ``signals``.
        """
        asked = time.perf_counter()
        batches = self._read(progress.step)
        waited = time.perf_counter() - asked
        inputs = [self._prepare(batch, progress.step, micro) for micro, batch in enumerate(batches)]
        counts = [self._counts(each) for each in inputs]
        totals, signals = self._reduce(counts, signals)
        values: dict[str, Tensor] = {}
        self._before = self._frozen_versions()
        for micro, (each, count) in enumerate(zip(inputs, counts)):
            here = dataclasses.replace(progress, micro=micro, micros=len(inputs))
            with self.parallel.exchange(self.model, last=micro == len(inputs) - 1):
                self._forward_backward(each, count, totals, here, values)
        self._updating = True
        values["grad_norm"] = self._update(rate) / self.world.size
        values[WAITED] = torch.tensor(waited / self.world.size)
        self.window.add(progress.step + 1, values, _sample_ids(batches, progress.step))
        return signals

    def settled(self) -> None:
        """To be called once the step is counted and the place in the data is noted."""
        self._updating, self._before = False, None

    def intact(self) -> bool:
        """Whether the model is as the last completed step left it. A step that failed may have moved weights, or what
        a forward pass moves itself: momentum encoders, queues, running means."""
        return not self._updating and (self._before is None or self._before == self._frozen_versions())

    def _frozen_versions(self) -> list[tuple[int, int]]:
        """Which tensors the model has that the optimizer does not move, and how often each was written to."""
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

    def _counts(self, inputs: Batch) -> dict[str, float]:
        return {SAMPLES: float(self.loader.per_process), **self.task.counts(inputs)}

    def _reduce(self, counts: list[dict[str, float]], signals: list[float]) -> tuple[dict[str, float], list[float]]:
        """Counts of the whole step: over micro-batches, and over processes in one small message."""
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

    def _forward_backward(
        self,
        inputs: Batch,
        counts: dict[str, float],
        totals: dict[str, float],
        progress: Progress,
        values: dict[str, Tensor],
    ) -> None:
        self.context.seed_all(progress.step, progress.micro, self.world.rank, _FORWARD)
        with self.context.autocast():
            output = self.task.train_step(self.model, inputs, progress)
        shares = {name: _share(name, counts, totals) for name in output.losses}
        parts = {name: loss.float() * shares[name] for name, loss in output.losses.items()}
        total = torch.stack(list(parts.values())).sum()
        # The exchange takes the mean over processes where the sum of all parts is wanted.
        (total * self.world.size).backward()
        self._note(values, parts, total, output, counts[SAMPLES] / totals[SAMPLES])

    def _note(
        self,
        values: dict[str, Tensor],
        parts: dict[str, Tensor],
        total: Tensor,
        output: StepOutput,
        share: float,
    ) -> None:
        found = {"loss": total, **{f"losses/{name}": part for name, part in parts.items()}}
        for name, metric in output.metrics.items():
            found[f"metrics/{name}"] = torch.as_tensor(metric, dtype=torch.float32, device=self.context.device) * share
        for name, value in found.items():
            values[name] = values[name] + value.detach() if name in values else value.detach()

    def _update(self, rate: float) -> Tensor:
        """Clip, step, and forget the gradients; the norm of the gradient before clipping."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = self.parallel.clip(parameters, self.grad_clip)
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def _share(name: str, counts: dict[str, float], totals: dict[str, float]) -> float:
    """Part of a mean loss's items that lies in this micro-batch of this process."""
    counted = name if name in totals else SAMPLES
    return counts.get(counted, 0.0) / totals[counted] if totals[counted] else 0.0


def _sample_ids(batches: list[Batch], step: int) -> list[str]:
    ids = [str(each) for batch in batches for each in batch.get("sample_id", ())]
    return ids or [f"all of step {step + 1} (its samples have no sample_id)"]
