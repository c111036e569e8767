"""The sections ``optim`` and ``run`` of a run file. The comments are what ``vlkit show`` cannot say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from vlkit.config.convert import Problems, convert
from vlkit.config.durations import Cadence, Count, Duration
from vlkit.config.load import Config, expanded
from vlkit.errors import ConfigError, VlkitError, did_you_mean
from vlkit.registry import load_plugin
from vlkit.registry.bounds import (
    BatchSize,
    DropRate,
    FilledText,
    NotNegative,
    Positive,
    PositiveInt,
    Range,
    Rate,
    Seed,
    UnitInterval,
)

_NO_STEPS = Duration(0, "steps")
_EPOCH = Cadence((Duration(1, "epochs"),))
_EPOCH_OR_MINUTES = Cadence((Duration(1, "epochs"), Duration(15, "minutes")))


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning rate over time.

    Args:
        lr: the highest learning rate.
        min_lr: where cosine, step and linear end, and where wsd ends its annealing.
        weight_decay: decoupled from the gradient.
        betas, eps: of AdamW.
        schedule: cosine, step (times ``decay_rate`` per epoch), constant, wsd (constant, then annealed over
            the share ``anneal`` at the end) or linear.
        schedule_unit: whether the rate moves every step, or once an epoch as in the original BLIP.
        warmup: linear from ``warmup_lr`` to ``lr``.
        decay_rate: factor per epoch of ``step``.
        anneal: share of the run, for ``wsd``.
        grad_clip: largest norm of the gradient; null clips nothing.
        decay_norm_and_bias: whether biases and norms decay too, as in the original BLIP.
        lr_scale: pattern of parameter names to a factor on the rate.
        fused: PyTorch's fused AdamW.
    """

    lr: Annotated[float, Range(0, 1e3, open=True)] = 1e-4
    min_lr: Rate = 0.0
    weight_decay: Rate = 0.05
    betas: tuple[DropRate, DropRate] = (0.9, 0.999)
    eps: Annotated[float, Range(0, 1, open=True)] = 1e-8
    schedule: Literal["cosine", "step", "constant", "wsd", "linear"] = "cosine"
    schedule_unit: Literal["step", "epoch"] = "step"
    warmup: Duration = _NO_STEPS
    warmup_lr: Rate = 0.0
    decay_rate: Annotated[float, Range(0, 1e3, open=True)] = 0.9
    anneal: UnitInterval = 0.2
    grad_clip: Positive | None = None
    decay_norm_and_bias: bool = True
    lr_scale: dict[str, Annotated[float, Range(0, 1e6)]] = field(default_factory=dict)
    fused: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.min_lr > self.lr:
            problems.append(f"min_lr ({self.min_lr:g}) is above lr ({self.lr:g}).")
        if self.warmup.seconds is not None:
            problems.append(f"warmup is {self.warmup}; it cannot be a time: give steps, epochs or samples.")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class RunOptions:
    """How long, on what and how to run.

    Args:
        duration, max_steps, max_epochs, max_samples: length of training; give one of them. A ``duration`` may be a
            time ('8 hours'), of training steps alone; schedules then follow the share of it that is spent.
        batch_size: samples per optimizer step, over all processes and accumulated micro-batches.
        eval_batch_size: samples per batch of evaluation; null: as in a training micro-batch.
        grad_accum_steps: micro-batches per optimizer step.
        precision: bf16 is autocast; the weights stay fp32.
        seed: of weights, order of samples, augmentation and dropout.
        num_workers: loader processes per process; 0 loads in the main one.
        monitor: ``<eval set>/<metric>`` that decides which checkpoint is the best; null: the last one.
        mode: whether a high or a low ``monitor`` is good.
        eval_every, checkpoint_every: a duration, or a list of which the soonest counts; a time is one of training
            steps. A checkpoint is also written before each evaluation. null: only at the end.
        log_every: steps between two lines of the log.
        keep_checkpoints: how many of the latest to keep, besides the best.
        check: before training, take a first batch and two samples of each evaluation set through everything.
        change_optimizer: continue a run that was begun with another section ``optim`` or ``grad_accum_steps``.
        output_dir: null: ``output/<name of the run file>``.
        device: auto takes cuda, then mps, then cpu.
        activation_checkpointing: recompute activations in the backward pass: less memory, more time. auto: those of
            as few blocks as a GPU's memory asks for; none elsewhere. torch, fairscale (by whose code): those of all.
        bad_samples: error: what a look at the data finds unusable ends the run before it starts; skip: it is only
            logged. What is met during a run is skipped and written to the ledger in either case.
        tensorboard: write its event files too.
        wandb: name of a Weights & Biases project to log to.
        init_from: from where the model's weights start: a checkpoint, a run's folder, an address, ``card`` (the
            released weights of the model's card) or ``card:<model>/<type>`` (those of another card).
        sample_images: how many images the picture of samples shows; 0: no picture.
        compile: torch.compile what of the model gains by it; needs a C++ compiler.
        cuda_graphs: decode texts with CUDA graphs on a GPU, where the batch allows it; the texts are the same.
        take_over: write to ``output_dir`` although another process holds it, which then stops. Only for one that surely
            does not run any more but cannot be seen from here: it is not recorded.
        parallel: how several processes share the model. ddp: a copy each; fsdp: weights, gradients and optimizer state
            sharded among them (FSDP2); oss: ddp with the optimizer's state sharded (fairscale). The steps are the same.
    """

    duration: Duration | None = None
    max_steps: Count | None = None
    max_epochs: NotNegative | None = None
    max_samples: Count | None = None
    batch_size: BatchSize = 32
    eval_batch_size: BatchSize | None = None
    grad_accum_steps: BatchSize = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: Seed = 42
    num_workers: Annotated[int, Range(0, 1_024)] = 0
    monitor: FilledText | None = None
    mode: Literal["max", "min"] = "max"
    eval_every: Cadence | None = _EPOCH
    checkpoint_every: Cadence | None = _EPOCH_OR_MINUTES
    log_every: PositiveInt = 50
    keep_checkpoints: PositiveInt = 2
    check: bool = True
    take_over: bool = False
    change_optimizer: bool = False
    output_dir: Path | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    activation_checkpointing: Literal["auto", "none", "torch", "fairscale"] = "auto"
    bad_samples: Literal["error", "skip"] = "error"
    tensorboard: bool = False
    wandb: FilledText | None = None
    init_from: FilledText | None = None
    sample_images: Annotated[int, Range(0, 10_000)] = 8
    compile: bool = False
    cuda_graphs: bool = False
    parallel: Literal["ddp", "fsdp", "oss"] = "ddp"

    def __post_init__(self) -> None:
        for name in ("eval_every", "checkpoint_every"):  # in Python, one duration may be given
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Cadence.parse(getattr(self, name)))
        given = self._lengths()
        problems = []
        if len(given) > 1:
            names = " and ".join(given)
            problems.append(f"{names} are given; one length is allowed: set the others to null.")
        if self.batch_size % self.grad_accum_steps:
            problems.append(
                f"batch_size ({self.batch_size}) counts all micro-batches of a step and must be divisible by "
                f"grad_accum_steps ({self.grad_accum_steps})."
            )
        if problems:
            raise ConfigError(problems)

    @property
    def length(self) -> Duration | None:
        """Return the length of training, however it was given."""
        return next(iter(self._lengths().values()), None)

    def _lengths(self) -> dict[str, Duration]:
        units = {"max_steps": "steps", "max_epochs": "epochs", "max_samples": "samples"}
        given = {"duration": self.duration} if self.duration is not None else {}
        for name, unit in units.items():
            amount = getattr(self, name)
            if amount is not None:
                given[name] = Duration(amount, unit)
        return given


def length_problem(optim: OptimConfig, run: RunOptions) -> str | None:
    """Return why the schedule of ``optim`` cannot follow the length of ``run``; None: it can."""
    if run.length is None or run.length.seconds is None:
        return None
    if optim.schedule_unit == "epoch" and optim.schedule in ("cosine", "linear", "wsd"):
        return (
            f"optim.schedule is {optim.schedule!r} by epoch, and run.duration is {run.length}: how many epochs that is "
            "is not known. Set optim.schedule_unit to step, or give the length in epochs, steps or samples."
        )
    return None


T = TypeVar("T")
_NAME = re.compile(r"[\w.-]{1,40}")


def load_plugins(config: Config) -> list[str]:
    """Import the files under ``plugins``, relative to the file that lists them; the problems are returned."""
    found: Problems = []
    given = config.data.get("plugins")
    entries = convert([] if given is None else given, list[str], "plugins", found)
    problems = [f"{config.origin(path)}: {text}" for path, text in found]
    for index, entry in enumerate(entries if not found else []):
        source = config.source(f"plugins.{index}")
        try:
            load_plugin((source.parent if source else Path()) / expanded(entry))
        except VlkitError as error:
            problems.append(f"{config.origin(f'plugins.{index}')}: {error}")
    return problems


class Sections:
    """Collects the problems of one file.

    Args:
        config: the file.

    Attributes:
        problems: sentences with the file and the key path in front.
    """

    def __init__(self, config: Config):
        self.config = config
        self.problems: list[str] = []

    def open(self, known: Sequence[str]) -> None:
        """Report sections that are not ``known``, and load the plugins."""
        allowed = f"Allowed: extends, {', '.join(known)}."
        for key in self.config.data:
            if not _NAME.fullmatch(key):  # of another kind of file: what it holds may be a secret
                self.problems.append(
                    f"{self.config.origin('')}: there is a key that is no name of a section. {allowed}"
                )
            elif key not in known:
                self.report(key, f"unknown section {key!r}.{did_you_mean(key, known)} {allowed}")
        self.problems += load_plugins(self.config)

    def report(self, path: str, problem: str) -> None:
        """Add a problem at a key path."""
        self.problems.append(f"{self.config.origin(path)}: {problem}")

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a section that may be absent or empty."""
        section = self.config.data.get(name)
        return section if isinstance(section, dict) else {}

    def section(self, name: str, schema: type[T]) -> T | None:
        """Return the options of a section that no registry builds; None when they are wrong."""
        found: Problems = []
        value = self.config.data.get(name)
        options = convert({} if value is None else value, schema, name, found)
        for path, problem in found:
            self.report(path, problem)
        return options if not found else None

    def part(self, name: str, make: Callable[..., Any]) -> Any:
        """Return a section that a registry builds, or None when it is absent or cannot even be read."""
        if self.config.data.get(name) is None:
            self.report(name, f"the section {name!r} is missing: {name}: {{name: ...}}.")
            return None
        return self.checked(make, self.config.data[name], name, self.config.origin)

    def checked(self, make: Callable[..., Any], *args: Any) -> Any:
        """Return the part that ``make`` gives, its problems reported; None when it cannot be made."""
        try:
            part = make(*args)
        except ConfigError as error:
            self.problems += error.problems
            return None
        problems = part.check()
        self.problems += problems
        return part
