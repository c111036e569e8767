"""Resolve the durations of a run to steps or seconds, and measure its time of training."""

from __future__ import annotations

from dataclasses import dataclass

from vlkit.config.durations import Cadence, Duration
from vlkit.config.schema import OptimConfig, RunOptions, length_problem
from vlkit.errors import ConfigError
from vlkit.runner.distributed import World
from vlkit.tasks.base import Progress


@dataclass(frozen=True)
class Interval:
    """An interval in steps or in seconds of training, whichever passes first.

    Args:
        steps: or None.
        seconds: or None.
    """

    steps: int | None = None
    seconds: float | None = None

    def due(self, step: int, seconds: float) -> bool:
        """Return whether the interval has passed.

        Args:
            step: optimizer steps done.
            seconds: of training since the last time.
        """
        by_steps = self.steps is not None and step > 0 and step % self.steps == 0
        return by_steps or (self.seconds is not None and seconds >= self.seconds)


@dataclass(frozen=True)
class Plan:
    """Every duration of a run in optimizer steps, or in seconds of training where it is given as a time.

    Args:
        steps: length of the run, or None.
        seconds: length of the run where it is given as a time, or None.
        steps_per_epoch: may be fractional.
        warmup: steps.
        eval_every, checkpoint_every: in addition to the end of the run.
    """

    steps: int | None
    seconds: float | None
    steps_per_epoch: float
    warmup: int
    eval_every: Interval
    checkpoint_every: Interval

    @classmethod
    def resolve(cls, optim: OptimConfig, run: RunOptions, samples: int) -> Plan:
        """Resolve the durations of a run file.

        Args:
            optim, run: the sections.
            samples: of one epoch.

        Raises:
            ConfigError: the run has no length, or one that the schedule cannot follow.
        """

        def count(duration: Duration) -> int:
            return duration.resolve(samples, run.batch_size)

        def interval(cadence: Cadence | None) -> Interval:
            durations = [each for each in (cadence.durations if cadence else ()) if each.amount]
            times = [each.seconds for each in durations if each.seconds is not None]
            counts = [count(each) for each in durations if each.seconds is None]
            return Interval(min(counts, default=None), min(times, default=None))

        if run.length is None:
            raise ConfigError("run: the length of training is missing: give run.duration, such as '3000 steps'.")
        if problem := length_problem(optim, run):
            raise ConfigError(problem)
        return cls(
            steps=count(run.length) if run.length.seconds is None else None,
            seconds=run.length.seconds,
            steps_per_epoch=samples / run.batch_size,
            warmup=count(optim.warmup),
            eval_every=interval(run.eval_every),
            checkpoint_every=interval(run.checkpoint_every),
        )

    def ends(self, step: int, seconds: float) -> bool:
        """Return whether the run ends after ``step`` steps and ``seconds`` of training."""
        if self.steps is not None:
            return step >= self.steps
        return self.seconds is not None and seconds >= self.seconds

    def check_length(self, step: int, seconds: float, before: str, length: str) -> None:
        """Check that the length of a run may change.

        Args:
            step, seconds: how long it has trained.
            before: its former length, as written.
            length: its new length, which this plan has resolved.

        Raises:
            ConfigError: it has already trained longer.
        """
        if before == length:
            return
        if self.steps is not None and step > self.steps:
            trained, wanted = f"{step} steps", f", which is {self.steps} steps"
        elif self.seconds is not None and seconds > self.seconds:
            trained, wanted = f"{seconds:.0f} seconds", ""
        else:
            return
        raise ConfigError(
            f"this run of {before or 'another length'} has trained {trained} already; run.duration (or run.max_epochs, "
            f"...) is now {length}{wanted}. Make it longer, or choose another run.output_dir."
        )

    def progress(self, step: int, seconds: float, batch_size: int) -> Progress:
        """Return the position of the run. If its length is a time, the number of steps is extrapolated from the time
        spent, so that schedules follow the share of the time.

        Args:
            step: optimizer steps done.
            seconds: of training, the same in all processes.
            batch_size: samples of a step.
        """
        steps = self.steps
        if steps is None:
            spent = min(1.0, seconds / self.seconds) if self.seconds else 1.0
            steps = max(step + 1, round(step / spent)) if spent else step + 1
        return Progress(step, steps, self.steps_per_epoch, step * batch_size)

    def seconds_left(self, step: int, seconds: float, steps_per_second: float) -> float:
        """Estimate the seconds until the end, for display."""
        if self.steps is None:
            return max(0.0, (self.seconds or 0.0) - seconds)
        return (self.steps - step) / steps_per_second


class Clock:
    """Count the seconds spent in training steps: data, forward, backward, update.

    Decisions use :attr:`agreed`. With several processes that is the time which process 0 expects at the end of the
    step; it is part of the message that the step sends anyway.

    Args:
        world: the processes.

    Attributes:
        seconds: of this process.
        agreed: the same in all processes.
        saved: ``agreed`` when the last checkpoint was written.
        evaluated: ``agreed`` after the last complete evaluation.
    """

    def __init__(self, world: World):
        self.world = world
        self.seconds = self.agreed = self.saved = self.evaluated = 0.0
        self._last = 0.0

    def signal(self) -> float:
        """Return this process's part of the message: the expectation of process 0, 0 from the others."""
        return self.seconds + self._last if self.world.is_main else 0.0

    def after_step(self, seconds: float, signals: float) -> None:
        """Count a step.

        Args:
            seconds: that it took in this process.
            signals: sum of :meth:`signal` over all processes.
        """
        self.seconds += seconds
        self._last = seconds
        self.agreed = self.seconds if self.world.size == 1 else signals

    def add(self, seconds: float) -> None:
        """Count seconds of the step that were spent after the processes agreed."""
        self.seconds += seconds
        self._last += seconds

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return {"seconds": self.seconds, "evaluated": self.evaluated}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Load the state of a checkpoint."""
        self.seconds = self.agreed = self.saved = float(state["seconds"])
        self.evaluated = float(state.get("evaluated", 0.0))
