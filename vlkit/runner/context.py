"""The setting of a run: processes, device, precision, seed and output folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlkit.config.schema import RunOptions
from vlkit.runner.device import autocast, choose_device, seed_all
from vlkit.runner.distributed import World
from vlkit.runner.output import OutputFolder


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
            world: the processes, if they have met already.

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
