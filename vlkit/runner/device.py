"""Where a run computes and how precisely; and its random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from vlkit.errors import ConfigError, did_you_mean

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device called ``name``; ``auto`` is CUDA, else MPS, else the CPU.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.
        local_rank: which GPU this process of several takes.

    Raises:
        ConfigError: no such device here.
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
    """A maker of the context in which a run of this precision computes.

    Raises:
        ConfigError: no precision has that name.
    """
    if precision == "fp32":
        return contextlib.nullcontext
    if precision != "bf16":
        raise ConfigError(
            f"run.precision is {precision!r}; allowed: {', '.join(PRECISIONS)}.{did_you_mean(precision, PRECISIONS)}"
        )
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)


def seed_all(*entropy: int) -> None:
    """Seed torch on every device from these numbers. Done before each micro-batch, so that no generator's
    state has to be saved for a run to be continued exactly."""
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    torch.manual_seed((int(state[0]) << 31) ^ int(state[1]))
