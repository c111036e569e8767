"""Everything that a run would do, in small: one batch forward and backward, one batch of each evaluation set."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlkit.config.parts import DatasetSpec
from vlkit.datasets.base import Sample, VLDataset, collate, substitutes
from vlkit.datasets.loading import BAD, TrainLoader
from vlkit.datasets.media import MediaCheck
from vlkit.datasets.mixture import Mixture
from vlkit.errors import BadSample, ConfigError, VlkitError, did_you_mean
from vlkit.jobs.awaited import NOTHING, Awaited
from vlkit.jobs.base import Problems
from vlkit.jobs.checks import checkpoint_bytes, free_bytes
from vlkit.jobs.experiment import Data, Experiment, Prepared
from vlkit.jobs.overlap import overlap_notes
from vlkit.runner.activation_checkpointing import checkpoint_activations
from vlkit.runner.activation_memory import ModelSavedBytes, tensors_of
from vlkit.runner.device import autocast, choose_device, seed_all
from vlkit.runner.modes import evaluating, start_training
from vlkit.runner.optimizer import build_optimizer
from vlkit.runner.plan import Plan
from vlkit.tasks.base import EvalContext

SAMPLES = 4
"""The most samples that a rehearsal reads for one batch."""


@dataclass
class Memory:
    """Bytes that one process needs to train.

    Args:
        weights: parameters and buffers.
        gradients: of what is trained.
        moments: AdamW's.
        activations: what is kept for the backward pass of a micro-batch, scaled from a smaller one; with
            ``run.activation_checkpointing: auto`` the most that may be kept.
        measured_on, scaled_to: samples of the two.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    measured_on: int
    scaled_to: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.activations


@dataclass
class Report:
    """What a rehearsal found.

    Args:
        model: name, with the type.
        weights: where the model starts.
        parameters, trained: numbers of the model's weights.
        sizes: samples of each dataset, by key path.
        losses: of the first batch.
        scores: of one small batch of each evaluation set.
        plan: lengths in steps; None: no training.
        memory: None: no training.
        checkpoint, free: bytes of a checkpoint and of free disk space.
        notes: what may be intended.
        media: how many images or videos of each dataset were decoded, by key path.
    """

    model: str
    weights: str
    parameters: int
    trained: int
    sizes: dict[str, int]
    checkpoint: int
    free: int
    losses: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    plan: Plan | None = None
    memory: Memory | None = None
    notes: list[str] = field(default_factory=list)
    media: dict[str, MediaCheck] = field(default_factory=dict)


def rehearse(
    experiment: Experiment,
    checkpoint: str | Path | None = None,
    awaited: Awaited = NOTHING,
    world_size: int = 1,
    every_image: bool = False,
) -> Report:
    """Do everything but train.

    Args:
        experiment: the run.
        checkpoint: weights to evaluate.
        awaited: what is in there is still to be made: no weights or data are looked for in it.
        world_size: processes among which a step would be divided.
        every_image: decode all images and videos, and not a few.

    Raises:
        ConfigError: everything that is wrong.
    """
    ready = experiment.prepare(checkpoint, awaited, every_image=every_image)
    report = facts(experiment, ready, awaited)
    go_through(experiment, ready, report, world_size, SAMPLES, math.inf)
    for key, dataset in ready.data.by_key.items():
        if (found := dataset.check_media()) is not None:
            report.media[key] = found
        elif every_image and type(dataset).media is VLDataset.media:
            report.notes.append(f"{key}: the images of {type(dataset).__name__} are not known, so none was decoded.")
    missing = [part for part in _data_parts(experiment) if part.where not in ready.data.by_key]
    report.notes += [f"{part.where} is still to be made by an earlier stage." for part in missing]
    report.notes += _overlap(ready.data)
    return report


def go_through(
    experiment: Experiment,
    ready: Prepared,
    report: Report,
    world_size: int,
    count: int,
    seconds: float,
    first_batch: bool = True,
) -> None:
    """A first batch and each evaluation set in small; fills ``report``.

    Args:
        count: the most samples of a batch.
        seconds: after these no further sample or set is begun.
        first_batch: whether a training batch is among it.

    Raises:
        ConfigError: everything that is wrong.
    """
    problems, parts, end = Problems(), experiment.parts, time.monotonic() + seconds
    origin, evals = parts.config.origin, ready.data.evals
    with problems.of(origin("run")):
        device = choose_device(parts.run.device, int(os.environ.get("LOCAL_RANK", 0)))
        ready.model.to(device)
        if first_batch and experiment.training and ready.data.train is not None:
            with problems.of(origin("task")):
                _train(experiment, ready, report, device, world_size, count)
        done = []
        for name, dataset in evals.items():
            if time.monotonic() > end:
                break
            with problems.of(origin(f"datasets.eval.{name}")):
                report.scores |= _evaluate(experiment, ready, name, dataset, device, count, end)
            done.append(name)
        monitor = parts.run.monitor or ""
        looked_at = experiment.training and monitor.partition("/")[0] in done
        if looked_at and not problems and monitor not in report.scores:
            hint, known = did_you_mean(monitor, report.scores), ", ".join(sorted(report.scores)) or "nothing"
            place = origin("run.monitor")
            problems.append(f"{place}: {monitor!r} is given by no evaluation.{hint} Available: {known}.")
    problems.end()


def _data_parts(experiment: Experiment) -> list[DatasetSpec]:
    datasets = experiment.parts.datasets
    return [*(datasets.train if experiment.training else []), *datasets.eval.values()]


def _overlap(data: Data) -> list[str]:
    named = {key.removeprefix("datasets."): dataset for key, dataset in data.by_key.items()}
    train = {key: dataset for key, dataset in named.items() if key.startswith("train.")}
    return overlap_notes(train, {key: dataset for key, dataset in named.items() if key not in train})


def facts(experiment: Experiment, ready: Prepared, awaited: Awaited) -> Report:
    part, model = experiment.parts.model, ready.model
    run = experiment.parts.run
    drawn = "of an earlier stage" if awaited.holds(run.init_from) else f"drawn with seed {run.seed}"
    return Report(
        model=f"{part.name}/{part.type}" if part.type else part.name,
        weights=ready.weights.source if ready.weights else drawn,
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        sizes={key: len(dataset) for key, dataset in ready.data.by_key.items()},
        checkpoint=checkpoint_bytes(model),
        free=free_bytes(experiment.output_dir),
    )


def _train(
    experiment: Experiment, ready: Prepared, report: Report, device: torch.device, world_size: int, count: int
) -> None:
    """One batch forward and backward."""
    run, mixture = experiment.parts.run, ready.data.train
    if mixture is None:
        raise ConfigError("there is nothing to train on.")
    TrainLoader(mixture, run.batch_size, run.accumulate, 0, world_size)  # raises where the batch cannot be divided
    plan = report.plan = Plan.resolve(experiment.parts.optim, run, len(mixture))
    build_optimizer(ready.model, experiment.parts.optim, device)  # raises where a pattern of optim fits nothing
    checkpoint_activations(ready.model, run.activation_checkpointing)
    micro = run.batch_size // (run.accumulate * world_size)
    size = min(count, micro)
    small = _forward(experiment, ready, mixture, size // 2, plan, device)[1] if size == SAMPLES else None
    losses, kept = _forward(experiment, ready, mixture, size, plan, device)
    _guarded(lambda: torch.stack([loss.float() for loss in losses.values()]).sum().backward())
    report.losses = {name: loss.item() for name, loss in losses.items()}
    wrong = [name for name, loss in report.losses.items() if not math.isfinite(loss)]
    if wrong:
        raise ConfigError(f"on the first batch {', '.join(wrong)} is not a finite number.")
    # Two sizes tell what grows with the batch from what does not (bf16 copies of the weights, say).
    each = kept / size if small is None else max(0.0, (kept - small) / (size - size // 2))
    weights = sum(t.numel() * t.element_size() for t in tensors_of(ready.model))
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in ready.model.parameters() if p.grad is not None)
    report.memory = Memory(weights, gradients, 2 * gradients, kept + int(each * (micro - size)), size, micro)
    ready.model.zero_grad(set_to_none=True)
    if run.batch_size > len(mixture):
        report.notes.append(
            f"a batch ({run.batch_size}) is larger than the training data ({len(mixture)}): a step sees samples twice."
        )


def _forward(
    experiment: Experiment, ready: Prepared, mixture: Mixture, size: int, plan: Plan, device: torch.device
) -> tuple[dict[str, Tensor], int]:
    """Losses of the first samples, and the bytes that their backward pass needs."""
    run, model = experiment.parts.run, ready.model
    start_training(model)
    batch = TrainLoader(mixture, size).next_step()[0]
    batch.pop(BAD)
    seed_all(run.seed)
    inputs = _guarded(lambda: ready.task.prepare(model, batch, device))
    progress = plan.progress(0, 0.0, run.batch_size)
    recomputed = run.activation_checkpointing in ("torch", "fairscale")
    with ModelSavedBytes(model, recomputed) as kept, autocast(device, run.precision)():
        output = _guarded(lambda: ready.task.train_step(model, inputs, progress))
    return output.losses, kept.bytes


def _evaluate(
    experiment: Experiment,
    ready: Prepared,
    name: str,
    dataset: VLDataset,
    device: torch.device,
    count: int,
    end: float,
) -> dict[str, float]:
    """Scores of a few samples of an evaluation set: only their names mean something."""
    samples: list[Sample] = []
    for index in substitutes(0, len(dataset), 2 * SAMPLES):
        if len(samples) == count or (samples and time.monotonic() > end):
            break
        with contextlib.suppress(BadSample):
            samples.append({**dataset.sample(index, np.random.default_rng([index])), "index": index})
    if not samples:
        raise ConfigError("none of the samples that were tried can be used.")
    batch = collate(samples)
    context = EvalContext(device, autocast(device, experiment.parts.run.precision), name=name, dataset=dataset)
    seed_all(experiment.parts.run.seed)
    more = f". If it only needs more than {len(samples)} samples, set run.check=false." if experiment.training else ""
    with evaluating(ready.model), torch.inference_mode():
        found = _guarded(lambda: dict(ready.task.evaluate(ready.model, [batch], context)), more)
        return _guarded(lambda: {f"{name}/{key}": float(value) for key, value in found.items()})


def _guarded(action: Callable[[], Any], advice: str = "") -> Any:
    """What ``action`` gives; whatever it raises as a mistake of the run."""
    try:
        return action()
    except VlkitError:
        raise
    except Exception as error:  # a task and a model are anyone's code
        raise ConfigError(f"a first batch fails: {type(error).__name__}: {error}{advice}") from error
