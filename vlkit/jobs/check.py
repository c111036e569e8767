"""Check a run with batches: one forward and backward, and a small one of each evaluation set."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlkit.config.run import RunConfig
from vlkit.datasets.base import Sample, VLDataset, collate, substitutes
from vlkit.datasets.loading import BAD, TrainLoader
from vlkit.datasets.media import MediaCheck
from vlkit.datasets.mixture import Mixture
from vlkit.errors import BadSample, ConfigError, VlkitError, did_you_mean
from vlkit.jobs.base import Pending, Problems
from vlkit.jobs.checks import checkpoint_bytes, free_bytes, human, overlap_notes
from vlkit.models.weights.load import InitialWeights
from vlkit.runner.activation_checkpointing import SavedBytes, checkpoint_activations, tensors_of
from vlkit.runner.context import autocast, choose_device, seed_all
from vlkit.runner.model_state import evaluating, start_training
from vlkit.runner.optimizer import build_optimizer
from vlkit.runner.plan import Plan
from vlkit.tasks.base import EvalContext, Task

SAMPLES = 4
"""Upper limit of samples in a batch of ``vlkit check``."""


@dataclass
class Data:
    """The datasets of a run.

    Args:
        train: training mixture; None in an evaluation.
        evals: evaluation sets by name.
        by_key: every dataset under its key path ("datasets.train.0").
    """

    train: Mixture | None = None
    evals: dict[str, VLDataset] = field(default_factory=dict)
    by_key: dict[str, VLDataset] = field(default_factory=dict)


@dataclass
class Prepared:
    """What a runner needs, built and checked without a batch.

    Args:
        parts: the run file.
        training: whether the run trains.
        model: on the CPU.
        task, data: of the run.
        weights: that the model was loaded with; None: initialized at random.
    """

    parts: RunConfig
    training: bool
    model: nn.Module
    task: Task
    data: Data
    weights: InitialWeights | None


@dataclass
class Memory:
    """Bytes that one process needs for training.

    Args:
        weights: parameters and buffers.
        gradients: of the trained parameters.
        optimizer_state: of AdamW.
        activations: kept for the backward pass of a micro-batch, scaled from a smaller one; with
            ``run.activation_checkpointing: auto`` the most that may be kept.
        measured_on, scaled_to: samples of the two batches.
    """

    weights: int
    gradients: int
    optimizer_state: int
    activations: int
    measured_on: int
    scaled_to: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimizer_state + self.activations

    def __str__(self) -> str:
        return (
            f"about {human(self.total)} a process: weights {human(self.weights)}, gradients {human(self.gradients)}, "
            f"AdamW {human(self.optimizer_state)}, activations {human(self.activations)} (estimated: what autograd "
            f"keeps of {self.measured_on} samples, scaled to {self.scaled_to})"
        )


@dataclass
class CheckReport:
    """What the check of a run found.

    Args:
        model: name, with the type of its card.
        weights: source of the initial weights.
        parameters, trained: numbers of all and of trained parameters.
        sizes: samples of each dataset, by key path.
        checkpoint, free: bytes of a checkpoint and of free disk space.
        losses: of the first batch.
        scores: of one small batch of each evaluation set.
        plan: lengths in steps; None: no training.
        memory: None: no training.
        notes: remarks on what may be intended.
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

    def lines(self) -> list[tuple[str, str]]:
        """Return title and text of each line."""
        sizes = ", ".join(f"{key.removeprefix('datasets.')}: {size:,}" for key, size in self.sizes.items())
        lines = [
            ("model", f"{self.model}: {self.parameters:,} parameters, {self.trained:,} of them trained"),
            ("weights", self.weights),
            ("data", sizes),
        ]
        if self.media:
            lines.append(("images", _decoded(self.media)))
        if self.memory is not None and self.plan is not None:
            lines += [
                ("first batch", ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())),
                ("length", _length(self.plan)),
                ("memory", str(self.memory)),
                ("disk", f"{human(self.checkpoint)} a checkpoint, {human(self.free)} free"),
            ]
        if self.scores:
            lines.append(("evaluation", "gives " + ", ".join(self.scores)))
        return [*lines, *(("note", note) for note in self.notes)]


def describe(ready: Prepared, pending: Pending) -> CheckReport:
    """Start a report with what is known without a batch."""
    part, model, run = ready.parts.model, ready.model, ready.parts.run
    initial = "of an earlier stage" if "run.init_from" in pending else f"initialized with seed {run.seed}"
    return CheckReport(
        model=f"{part.name}/{part.type}" if part.type else part.name,
        weights=ready.weights.source if ready.weights else initial,
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        sizes={key: len(dataset) for key, dataset in ready.data.by_key.items()},
        checkpoint=checkpoint_bytes(model),
        free=free_bytes(ready.parts.output_dir),
    )


def add_data_notes(ready: Prepared, report: CheckReport, every_image: bool) -> None:
    """Add to a report what was decoded, what is pending, and images that training and evaluation share.

    Args:
        ready: the run.
        report: gets the notes.
        every_image: whether all images were to be decoded.
    """
    datasets, by_key = ready.parts.datasets, ready.data.by_key
    for key, dataset in by_key.items():
        if (found := dataset.check_media()) is not None:
            report.media[key] = found
        elif every_image and type(dataset).media is VLDataset.media:
            report.notes.append(f"{key}: the images of {type(dataset).__name__} are not known, so none was decoded.")
    wanted = [*(datasets.train if ready.training else []), *datasets.eval.values()]
    missing = [part.where for part in wanted if part.where not in by_key]
    report.notes += [f"{key} is still to be made by an earlier stage." for key in missing]
    named = {key.removeprefix("datasets."): dataset for key, dataset in by_key.items()}
    train = {key: dataset for key, dataset in named.items() if key.startswith("train.")}
    report.notes += overlap_notes(train, {key: dataset for key, dataset in named.items() if key not in train})


def check_batches(
    ready: Prepared, report: CheckReport, world_size: int, count: int, seconds: float, first_batch: bool = True
) -> None:
    """Compute a first training batch, and a small batch of each evaluation set.

    Args:
        ready: the run; its model is moved to the device.
        report: gets losses, scores, memory and length.
        world_size: processes among which a training step is divided.
        count: upper limit of samples in a batch.
        seconds: time after which no further sample is read and no set begun.
        first_batch: whether a training batch is computed.

    Raises:
        ConfigError: everything that is wrong.
    """
    problems, run, end = Problems(), ready.parts.run, time.monotonic() + seconds
    origin = ready.parts.config.origin
    with problems.of(origin("run")):
        device = choose_device(run.device, int(os.environ.get("LOCAL_RANK", 0)))
        ready.model.to(device)
        if first_batch and ready.training and ready.data.train is not None:
            with problems.of(origin("task")):
                _train(ready, ready.data.train, report, device, world_size, count)
        done = []
        for name, dataset in ready.data.evals.items():
            if time.monotonic() > end:
                break
            with problems.of(origin(f"datasets.eval.{name}")):
                batch = _eval_batch(dataset, count, end)
                report.scores |= _evaluate(ready, name, batch, device, len(batch["index"]))
            done.append(name)
        monitor = run.monitor or ""
        evaluated = ready.training and monitor.partition("/")[0] in done
        if evaluated and not problems and monitor not in report.scores:
            hint, known = did_you_mean(monitor, report.scores), ", ".join(sorted(report.scores)) or "nothing"
            place = origin("run.monitor")
            problems.append(f"{place}: {monitor!r} is given by no evaluation.{hint} Available: {known}.")
    problems.end()


def _train(
    ready: Prepared, mixture: Mixture, report: CheckReport, device: torch.device, world_size: int, count: int
) -> None:
    """Compute one batch forward and backward."""
    run, optim, model = ready.parts.run, ready.parts.optim, ready.model
    TrainLoader(
        mixture, run.batch_size, run.grad_accum_steps, 0, world_size
    )  # raises where the batch cannot be divided
    plan = report.plan = Plan.resolve(optim, run, len(mixture))
    build_optimizer(model, optim, device)  # raises where a pattern of optim fits nothing
    checkpoint_activations(model, run.activation_checkpointing)
    micro = run.batch_size // (run.grad_accum_steps * world_size)
    size = min(count, micro)
    small = _forward(ready, mixture, size // 2, plan, device)[1] if size == SAMPLES else None
    losses, kept = _forward(ready, mixture, size, plan, device)
    _guarded(lambda: torch.stack([loss.float() for loss in losses.values()]).sum().backward())
    report.losses = {name: loss.item() for name, loss in losses.items()}
    wrong = [name for name, loss in report.losses.items() if not math.isfinite(loss)]
    if wrong:
        raise ConfigError(f"on the first batch {', '.join(wrong)} is not a finite number.")
    # Two sizes separate what grows with the batch from what does not (bf16 copies of the weights, say).
    each = kept / size if small is None else max(0.0, (kept - small) / (size - size // 2))
    weights = sum(t.numel() * t.element_size() for t in tensors_of(model))
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
    report.memory = Memory(weights, gradients, 2 * gradients, kept + int(each * (micro - size)), size, micro)
    model.zero_grad(set_to_none=True)
    if run.batch_size > len(mixture):
        report.notes.append(
            f"a batch ({run.batch_size}) is larger than the training data ({len(mixture)}): a step sees samples twice."
        )


def _forward(
    ready: Prepared, mixture: Mixture, size: int, plan: Plan, device: torch.device
) -> tuple[dict[str, Tensor], int]:
    """Return the losses of the first samples, and the bytes that their backward pass needs."""
    run, model, task = ready.parts.run, ready.model, ready.task
    start_training(model)
    batch = TrainLoader(mixture, size).next_step()[0]
    batch.pop(BAD)
    seed_all(run.seed)
    inputs = _guarded(lambda: task.prepare(model, batch, device))
    progress = plan.progress(0, 0.0, run.batch_size)
    recomputed = run.activation_checkpointing in ("torch", "fairscale")
    blocks = model.checkpoint_blocks() if recomputed else ()  # type: ignore[operator]
    with SavedBytes(tensors_of(model), blocks) as kept, autocast(device, run.precision)():
        output = _guarded(lambda: task.train_step(model, inputs, progress))
    return output.losses, kept.bytes


def _eval_batch(dataset: VLDataset, count: int, end: float) -> dict[str, Any]:
    """Read up to ``count`` usable samples, or one if ``end`` has passed."""
    samples: list[Sample] = []
    for index in substitutes(0, len(dataset), 2 * SAMPLES):
        if len(samples) == count or (samples and time.monotonic() > end):
            break
        with contextlib.suppress(BadSample):
            samples.append({**dataset.sample(index, np.random.default_rng([index])), "index": index})
    if not samples:
        raise ConfigError("none of the samples that were tried can be used.")
    return collate(samples)


def _evaluate(ready: Prepared, name: str, batch: Any, device: torch.device, size: int) -> dict[str, float]:
    """Evaluate a few samples of a set: only the names of the scores mean something."""
    run, task, model = ready.parts.run, ready.task, ready.model
    context = EvalContext(device, autocast(device, run.precision), name=name, dataset=ready.data.evals[name])
    seed_all(run.seed)
    advice = f". If it only needs more than {size} samples, set run.check=false." if ready.training else ""
    with evaluating(model), torch.inference_mode():
        scores = _guarded(lambda: dict(task.evaluate(model, [batch], context)), advice)
        return _guarded(lambda: {f"{name}/{key}": float(value) for key, value in scores.items()})


def _guarded(action: Callable[[], Any], advice: str = "") -> Any:
    """Call ``action``; raise any exception of a task or model, which may be a plugin's, as an error of the run."""
    try:
        return action()
    except VlkitError:
        raise
    except Exception as error:
        raise ConfigError(f"a first batch fails: {type(error).__name__}: {error}{advice}") from error


def _length(plan: Plan) -> str:
    epochs = f"epochs of {plan.steps_per_epoch:,.1f} steps"
    if plan.steps is None:
        return f"{plan.seconds:,.0f} s of training steps, in {epochs}"
    return f"{plan.steps:,} steps, {plan.steps / plan.steps_per_epoch:.3g} {epochs}"


def _decoded(media: Mapping[str, MediaCheck]) -> str:
    texts = []
    for key, check in media.items():
        unusable = f" ({len(check.problems):,} cannot be used)" if check.problems else ""
        texts.append(f"{key.removeprefix('datasets.')}: {check.summary()}{unusable}")
    some = any(check.decoded < check.count for check in media.values())
    return ", ".join(texts) + ("; --images all decodes every one" if some else "")
