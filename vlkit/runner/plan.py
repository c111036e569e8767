"""The durations of a run, resolved once before its loop."""

from __future__ import annotations

from dataclasses import dataclass

from vlkit.config.durations import Duration
from vlkit.config.schema import OptimConfig, RunOptions
from vlkit.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """Every duration of a run in optimiser steps; None: only at the end."""

    steps: int
    steps_per_epoch: float
    warmup: int
    eval_every: int | None
    checkpoint_every: int | None

    @classmethod
    def resolve(cls, optim: OptimConfig, run: RunOptions, samples: int) -> Plan:
        """Count in steps.

        Args:
            optim, run: the sections.
            samples: of one epoch.

        Raises:
            ConfigError: the run has no length.
        """

        def count(duration: Duration | None) -> int | None:
            return None if duration is None else duration.resolve(samples, run.batch_size) or None

        if run.length is None:
            raise ConfigError("run: the length of training is missing: give run.duration, such as '3000 steps'.")
        return cls(
            steps=count(run.length) or 0,
            steps_per_epoch=samples / run.batch_size,
            warmup=count(optim.warmup) or 0,
            eval_every=count(run.eval_every),
            checkpoint_every=count(run.checkpoint_every),
        )

    def due(self, step: int, every: int | None) -> bool:
        """Whether what happens every so many steps, and at the end, happens after ``step`` steps."""
        return step == self.steps or (every is not None and step > 0 and step % every == 0)
