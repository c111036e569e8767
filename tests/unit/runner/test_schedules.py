from __future__ import annotations

import pytest

from vlkit.config.schema import OptimConfig
from vlkit.runner.schedules import learning_rate
from vlkit.tasks.base import Progress


def rates(steps=12, per_epoch=4.0, warmup=0, **optim) -> list[float]:
    config = OptimConfig(**{"lr": 1.0, **optim})
    return [learning_rate(config, Progress(step, steps, per_epoch, 0), warmup) for step in range(steps)]


def test_cosine_by_epoch_keeps_its_rate_within_an_epoch():
    assert rates(schedule="cosine", schedule_unit="epoch") == pytest.approx([1.0] * 4 + [0.75] * 4 + [0.25] * 4)


def test_epochs_of_fractional_length_begin_with_their_first_whole_step():
    found = rates(10, 10 / 3, schedule="step", schedule_unit="epoch", decay_rate=0.5)
    assert found == pytest.approx([1.0] * 4 + [0.5] * 3 + [0.25] * 3)


def test_cosine_by_step_starts_after_the_warm_up():
    found = rates(6, warmup=2, warmup_lr=0.2, schedule="cosine")
    assert found[:4] == pytest.approx([0.2, 0.6, 1.0, 0.5 * (1 + 2**-0.5)])


def test_linear_constant_and_step():
    assert rates(4, schedule="linear", min_lr=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert rates(3, schedule="constant", warmup=1) == [0.0, 1.0, 1.0]
    found = rates(9, 4.0, schedule="step", decay_rate=0.25, min_lr=0.1)
    assert found == pytest.approx([1, 0.25**0.25, 0.5, 0.25**0.75, 0.25, 0.25**1.25, 0.125, 0.1, 0.1])


def test_wsd_anneals_over_the_last_share():
    found = rates(10, warmup=2, schedule="wsd", anneal=0.5, min_lr=0.0)
    assert found == pytest.approx([0.0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert rates(4, schedule="wsd", anneal=0.0) == [1.0] * 4
