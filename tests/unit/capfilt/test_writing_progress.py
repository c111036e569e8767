"""What a worker says."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from vlkit.capfilt import writing as module
from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.writing import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def batch(progress: Progress, clock: Clock, images: int, before: float, inside: float) -> None:
    clock.now += before
    with progress.batch(images):
        clock.now += inside


def test_speed_is_that_of_the_last_window(clock, caplog):
    caplog.set_level(logging.INFO, "vlkit")
    progress = Progress(shards=4, done=1)
    batch(progress, clock, 50, 1.0, 3.0)
    assert caplog.messages == []
    batch(progress, clock, 50, 1.0, 5.0)
    progress.encoder = 99.0
    batch(progress, clock, 300, 0.0, 20.0)
    assert caplog.messages == [
        "10 images/s, the models work 80% of the time",
        "15 images/s (the image encoder alone: 99), the models work 100% of the time",
    ]
    facts = progress.facts()
    assert facts["images"] == 400
    assert facts["images_per_s"] == pytest.approx(400 / 30)
    assert facts["model_share"] == pytest.approx(28 / 30)


def test_a_shard_is_reported(clock, caplog):
    caplog.set_level(logging.INFO, "vlkit")
    Progress(4, 1).shard("00002", Counts(kept=3, dropped=2, refused=Counter({"empty image": 1})), 2)
    assert caplog.messages == ["shard 00002: 6 images, 3 kept, 2 dropped, 1 refused; 2 of 4 shards are done"]
