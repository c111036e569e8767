"""Learning rates as pure functions. Steps and epochs count from 0; the rate is that of the step about to be taken."""

from __future__ import annotations

import math
from typing import Any

from vlkit.errors import ConfigError, did_you_mean
from vlkit.tasks.base import Progress

SCHEDULES = ("constant", "cosine", "linear", "step", "wsd")
# One epoch is a fractional number of steps; the boundary must not fall one step late by a rounding of the quotient.
_SLACK = 1e-9


def warmup(step: float, steps: float, start: float, peak: float) -> float:
    """A straight line from ``start`` to ``peak`` over ``steps`` steps, then ``peak``. Paper: 4.1."""
    if step >= steps:
        return peak
    return min(peak, start + (peak - start) * step / steps)


def cosine(time: float, end: float, peak: float, floor: float) -> float:
    """Half a cosine from ``peak`` at time 0 to ``floor`` at ``end`` (both in epochs, or both in steps)."""
    return (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * time / end)) + floor


def step_decay(time: float, peak: float, floor: float, rate: float) -> float:
    """``peak`` times ``rate`` for each whole unit of time, not below ``floor``. Paper: 4.1 (0.9 an epoch)."""
    return max(floor, peak * rate**time)


def linear(time: float, end: float, peak: float, floor: float) -> float:
    """A straight line from ``peak`` at time 0 to ``floor`` at ``end``, then ``floor``."""
    return peak + (floor - peak) * min(1.0, time / end)


def warmup_stable_decay(time: float, end: float, peak: float, floor: float, anneal: float) -> float:
    """``peak``, then a straight line to ``floor`` over the last ``anneal`` (share, 0 to 1) of the time."""
    start = end * (1.0 - anneal)
    return peak if time <= start else linear(time - start, end - start, peak, floor)


def learning_rate(optim: Any, progress: Progress) -> float:
    """The rate of the step about to be taken.

    With ``schedule_unit: epoch`` the rate changes once an epoch, as in the paper; with ``step`` at every step, and the
    schedule spans the steps after the warm-up.

    Args:
        optim: the ``optim`` section, its warm-up resolved to steps.
        progress: where the run is.

    Raises:
        ConfigError: no schedule has that name.
    """
    warm = int(optim.warmup or 0)
    if progress.step < warm:
        return warmup(progress.step, warm, optim.warmup_lr, optim.lr)
    if optim.schedule_unit == "epoch":
        time: float = math.floor(progress.epoch + _SLACK)
        end: float = max(1, round(progress.steps / progress.steps_per_epoch))
    else:
        time, end = progress.step - warm, max(1, progress.steps - warm)
    peak, floor = optim.lr, optim.min_lr
    if optim.schedule == "constant":
        return peak
    if optim.schedule == "cosine":
        return cosine(time, end, peak, floor)
    if optim.schedule == "linear":
        return linear(time, end, peak, floor)
    if optim.schedule == "step":
        return step_decay(time, peak, floor, optim.decay_rate)
    if optim.schedule == "wsd":
        return warmup_stable_decay(time, end, peak, floor, optim.anneal)
    raise ConfigError(
        f"optim.schedule is {optim.schedule!r}; allowed: {', '.join(SCHEDULES)}."
        f"{did_you_mean(optim.schedule, SCHEDULES)}"
    )
