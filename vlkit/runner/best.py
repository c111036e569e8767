"""Which checkpoint is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vlkit.errors import ConfigError, did_you_mean


@dataclass
class Best:
    """The best value of the monitored score so far.

    Args:
        monitor: ``<evaluation set>/<score>``, or None: nothing is best.
        mode: ``max`` or ``min``.
        step: when it was reached.
        value: the score; None before the first that is a number.
    """

    monitor: str | None
    mode: str = "max"
    step: int | None = None
    value: float | None = None

    def update(self, step: int, scores: Mapping[str, float]) -> bool:
        """Whether ``scores`` beat the best so far, which they then are. A nan never wins.

        Raises:
            ConfigError: the monitored score is not among them.
        """
        if self.monitor is None:
            return False
        if self.monitor not in scores:
            raise ConfigError(
                f"run.monitor is {self.monitor!r}, which no evaluation gives."
                f"{did_you_mean(self.monitor, scores)} Available: {', '.join(sorted(scores)) or 'nothing'}."
            )
        value = float(scores[self.monitor])
        if math.isnan(value):
            return False
        if self.value is not None and not (value > self.value if self.mode == "max" else value < self.value):
            return False
        self.step, self.value = step, value
        return True

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint, unless another score was monitored then."""
        if (state["monitor"], state["mode"]) == (self.monitor, self.mode):
            self.step, self.value = state["step"], state["value"]
