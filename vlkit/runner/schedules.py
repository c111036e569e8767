"""Learning-rate schedules: pure functions of the next step or epoch, both counted from 0."""

from __future__ import annotations

import math

from vlkit.config.schema import OptimConfig
from vlkit.tasks.base import Progress

# An epoch may be a fraction of steps; rounding the quotient must not move its boundary by a step.
_SLACK = 1e-9


def warmup(step: float, steps: float, start: float, peak: float) -> float:
    """Rise linearly from ``start`` to ``peak`` over ``steps`` steps, then stay. Paper: 4.1."""
    if step >= steps:
        return peak
    return min(peak, start + (peak - start) * step / steps)


def cosine(time: float, end: float, peak: float, floor: float) -> float:
    """Follow half a cosine from ``peak`` at time 0 to ``floor`` at ``end`` (both in epochs, or both in steps)."""
    return (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * time / end)) + floor


def step_decay(time: float, peak: float, floor: float, rate: float) -> float:
    """Multiply ``peak`` by ``rate`` once per unit of time, down to ``floor``. Paper: 4.1 (0.9 per epoch)."""
    return max(floor, peak * rate**time)


def linear(time: float, end: float, peak: float, floor: float) -> float:
    """Fall linearly from ``peak`` at time 0 to ``floor`` at ``end``, then stay."""
    return peak + (floor - peak) * min(1.0, time / end)


def warmup_stable_decay(time: float, end: float, peak: float, floor: float, anneal: float) -> float:
    """Stay at ``peak``, then fall linearly to ``floor`` over the last ``anneal`` (share, 0 to 1) of the time."""
    start = end * (1.0 - anneal)
    return peak if time <= start else linear(time - start, end - start, peak, floor)


def learning_rate(optim: OptimConfig, progress: Progress, warmup_steps: int = 0) -> float:
    """Return the learning rate of the next step.

    With ``schedule_unit: epoch`` the rate changes once per epoch, as in the paper; with ``step`` at every
    step, and the schedule spans the steps after the warm-up.

    Args:
        optim: the ``optim`` section.
        progress: position of the run.
        warmup_steps: length of the warm-up.
    """
    if progress.step < warmup_steps:
        return warmup(progress.step, warmup_steps, optim.warmup_lr, optim.lr)
    peak, floor, by_epoch = optim.lr, optim.min_lr, optim.schedule_unit == "epoch"
    if by_epoch:
        time: float = math.floor(progress.epoch + _SLACK)
        end: float = max(1, round(progress.steps / progress.steps_per_epoch))
    else:
        time, end = progress.step - warmup_steps, max(1, progress.steps - warmup_steps)
    if optim.schedule == "constant":
        return peak
    if optim.schedule == "step":
        return step_decay(time if by_epoch else progress.epoch, peak, floor, optim.decay_rate)
    if optim.schedule == "wsd":
        return warmup_stable_decay(time, end, peak, floor, optim.anneal)
    return {"cosine": cosine, "linear": linear}[optim.schedule](time, end, peak, floor)
