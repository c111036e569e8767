"""How long a run has trained, by the clock of process 0, the same in all processes."""

from __future__ import annotations

from vlkit.runner.distributed import World


class Clock:
    """Counts the seconds spent in training steps: data, forward, backward, update.

    What depends on time is decided by :attr:`agreed`. With several processes it is what process 0 expects its clock to
    show at the end of the step; it travels in the message that the step sends anyway.

    Args:
        world: the processes.

    Attributes:
        seconds: of this process.
        agreed: the same in all processes.
        saved: ``agreed`` when the last checkpoint was written.
        evaluated: ``agreed`` when the last evaluation was finished.
    """

    def __init__(self, world: World):
        self.world = world
        self.seconds = self.agreed = self.saved = self.evaluated = 0.0
        self._last = 0.0

    def signal(self) -> float:
        """This process's part of the message: process 0's expectation, 0 from the others."""
        return self.seconds + self._last if self.world.is_main else 0.0

    def after_step(self, seconds: float, signals: float) -> None:
        """Count a step.

        Args:
            seconds: that it took here.
            signals: sum of :meth:`signal` over all processes.
        """
        self.seconds += seconds
        self._last = seconds
        self.agreed = self.seconds if self.world.size == 1 else signals

    def add(self, seconds: float) -> None:
        """Count what belongs to the step, and was spent after all processes had agreed."""
        self.seconds += seconds
        self._last += seconds

    def state_dict(self) -> dict[str, float]:
        """For the checkpoint of process 0."""
        return {"seconds": self.seconds, "evaluated": self.evaluated}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint."""
        self.seconds = self.agreed = self.saved = float(state["seconds"])
        self.evaluated = float(state.get("evaluated", 0.0))
