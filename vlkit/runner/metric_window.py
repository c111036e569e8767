"""Losses between two lines of the log, kept as tensors so that no step waits for the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vlkit.errors import VlkitError
from vlkit.runner.distributed import World


class NonFinite(VlkitError):
    """A loss that is no longer a number.

    Args:
        step: the first such step, counted from 1.
        name: which value.
        value: what it is.
        sample_ids: the samples of that step, of all processes.
    """

    def __init__(self, step: int, name: str, value: float, sample_ids: list[str]):
        self.step, self.name, self.value, self.sample_ids = step, name, value, sample_ids
        shown = ", ".join(sample_ids[:8]) + (", ..." if len(sample_ids) > 8 else "")
        super().__init__(
            f"{name} is {value} at step {step}. The batch of this step: {shown} (all of them in "
            "nonfinite.json). Lower optim.lr, set optim.grad_clip, warm up longer, or look at these samples; "
            "the run can be continued from the newest checkpoint, which is from before."
        )


class Window:
    """Means since the last line.

    What is added is this process's part of a value; the sum of the parts over all processes is the value.

    Args:
        world: the processes.
    """

    def __init__(self, world: World):
        self.world = world
        self._pending: list[tuple[int, dict[str, Tensor], list[str]]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, step: int, values: dict[str, Tensor], sample_ids: list[str]) -> None:
        """Note the values of a step (counted from 1) without looking at them."""
        self._pending.append((step, values, sample_ids))

    def settle(self) -> None:
        """Look at what was noted.

        Raises:
            NonFinite: a loss or the gradient norm is not finite, in any process.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        names = [sorted(values) for _, values, _ in pending]
        parts = [values[name].float() for (_, values, _), each in zip(pending, names) for name in each]
        totals = iter(self.world.sum(torch.stack(parts).tolist()))
        for (step, _, sample_ids), each in zip(pending, names):
            for name, total in zip(each, totals):
                if not math.isfinite(total) and not name.startswith("metrics/"):
                    raise NonFinite(step, name, total, self.world.gather(sample_ids))
                self._sums[name] = self._sums.get(name, 0.0) + total
                self._counts[name] = self._counts.get(name, 0) + 1

    def close(self) -> dict[str, float]:
        """The means, and a new window."""
        self.settle()
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts so far; call :meth:`settle` first."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the window of a checkpoint."""
        self._pending, self._sums, self._counts = [], dict(state["sums"]), dict(state["counts"])
