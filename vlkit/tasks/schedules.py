"""Schedules that belong to an objective rather than to the optimizer."""

from __future__ import annotations


def alpha_ramp(alpha: float, epoch: float, ramp_epochs: float) -> float:
    """Weight of the momentum model's soft targets: rises from 0 to ``alpha``, then stays.

    Args:
        alpha: the final weight, 0 to 1.
        epoch: passes over the data done, with the fraction (``Progress.epoch``).
        ramp_epochs: length of the rise in epochs (pre-training 2, retrieval 1); 0: ``alpha`` from the start.
    """
    return alpha if epoch >= ramp_epochs else alpha * epoch / ramp_epochs
