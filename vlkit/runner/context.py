"""The context of a run: processes, device, precision, seed and output folder; and the functions that choose them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vlkit.config.schema import RunOptions
from vlkit.errors import ConfigError, did_you_mean
from vlkit.runner.distributed import World
from vlkit.runner.output import OutputFolder

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class RunContext:
    """Where and how a run computes.

    Args:
        world: the processes.
        device: of this process.
        precision: ``fp32`` or ``bf16``.
        seed: of every random number.
        output: the folder that the run writes.
    """

    world: World
    device: torch.device
    precision: str
    seed: int
    output: OutputFolder

    def __post_init__(self) -> None:
        autocast(self.device, self.precision)  # reports an unknown precision before the run starts

    @classmethod
    def of(cls, run: RunOptions, output: OutputFolder | None = None, world: World | None = None) -> RunContext:
        """Create the context of a run file.

        Args:
            run: the section ``run``.
            output: its folder; None: ``run.output_dir``, without a configuration to compare.
            world: the processes, if they are connected already.

        Raises:
            ConfigError: this machine has no such device, or no precision has that name.
        """
        world = world or World()
        output = output or OutputFolder(Path(run.output_dir or "output"), {}, run.take_over)
        return cls(world, choose_device(run.device, world.local_rank), run.precision, run.seed, output)

    @property
    def autocast(self) -> Callable[[], Any]:
        """Create the context manager of the forward pass."""
        return autocast(self.device, self.precision)

    def seed_all(self, *entropy: int) -> None:
        """Seed torch on every device from the run's seed and these numbers."""
        seed_all(self.seed, *entropy)


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA, else MPS, else the CPU.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.
        local_rank: which GPU this process of several takes.

    Raises:
        ConfigError: unknown device, or one that this machine lacks.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdigit())):
        raise ConfigError(
            f"run.device is {name!r}; allowed: {', '.join(DEVICES)}, cuda:N.{did_you_mean(name, DEVICES)}"
        )
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = next(each for each in ("cuda", "mps", "cpu") if available[each])
    if not available[kind]:
        raise ConfigError(f"run.device is {name!r}, but this machine has none; 'auto' takes what there is.")
    if kind != "cuda":
        return torch.device(kind)
    index = int(number) if number else local_rank
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"run.device asks for GPU {index}, and this machine has {torch.cuda.device_count()}. Start fewer "
            f"processes or choose another one."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def autocast(device: torch.device, precision: str) -> Callable[[], Any]:
    """Return a function that creates the autocast context of a precision.

    Raises:
        ConfigError: unknown precision.
    """
    if precision == "fp32":
        return contextlib.nullcontext
    if precision != "bf16":
        raise ConfigError(
            f"run.precision is {precision!r}; allowed: {', '.join(PRECISIONS)}.{did_you_mean(precision, PRECISIONS)}"
        )
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def seed_all(*entropy: int) -> None:
    """Seed torch on every device from these numbers.

    The runner does so before each micro-batch, so that exact resumption needs no generator state.
    """
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    torch.manual_seed((int(state[0]) << 31) ^ int(state[1]))


def compile_model(model: nn.Module, device: torch.device, backend: str = "inductor") -> None:
    """Compile the blocks that ``model.image_blocks()`` lists in place with ``torch.compile``; parameter names stay.

    All blocks run the same code on the same shapes in every step, so one compilation serves all of them, once for
    training and once for evaluation. The text side is not compiled: packed texts differ in length from step to step.
    A model without that method is compiled as a whole.

    Args:
        model: on ``device``; before activation checkpointing and before it is wrapped for several processes.
        device: of the model.
        backend: of torch.compile.

    Raises:
        ConfigError: this machine has no compiler for the device.
    """
    if backend == "inductor":
        _check_compiler(device)
    if not hasattr(model, "image_blocks"):
        model.compile(backend=backend)
        return
    blocks: list[Any] = model.image_blocks()  # type: ignore[operator]
    for block in blocks:
        # The forward alone: hooks of FSDP run outside of the compiled code.
        block.forward = torch.compile(block.forward, backend=backend)


def _check_compiler(device: torch.device) -> None:
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("run.compile is true, which needs Triton on a GPU: pip install triton, or set it to false.")
    default = "clang++" if sys.platform == "darwin" else "g++"
    name, given = ("CC", "gcc") if device.type == "cuda" else ("CXX", default)
    compiler = os.environ.get(name, given)
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"run.compile is true, but this machine has no compiler {compiler!r}: install one (Debian: apt install "
            f"build-essential), name another in the environment variable {name}, or set run.compile to false."
        )
