"""A run that saves by time and is killed again and again loses no more than that time and one step each."""

from __future__ import annotations

import json
import logging
import os
import random
import time

import pytest

from tests.assets.toy import start
from tests.assets.waiting import LONG, wait_until
from vlkit.config.durations import Duration

logger = logging.getLogger(__name__)
FULL = os.environ.get("VLKIT_CAMPAIGN") == "full"
KILLS, PAUSE, EVERY = (20, 0.25, 5.0) if FULL else (3, 0.02, 0.2)
"""The full form saves every 5 seconds in an epoch of 60: 1,920 samples in steps of 8 that take 0.25 seconds."""


@pytest.mark.campaign
@pytest.mark.timeout(3000 if FULL else 300)
def test_kills_lose_at_most_the_time_between_checkpoints_and_a_step(tmp_path):
    """Steps are counted: each takes at least ``PAUSE`` seconds, so ``EVERY`` seconds hold a known number of them."""
    most = round(EVERY / PAUSE) + 1
    settings = {
        "pause": PAUSE,
        "train": "a minute",
        "max_steps": 10**6,
        "eval_every": None,
        "checkpoint_every": Duration(EVERY, "seconds"),
    }
    log, lost, done = tmp_path / "metrics.jsonl", [], 0
    for _ in range(KILLS):
        process = start(tmp_path, **settings)
        goal = done + random.randrange(1, 3 * most)
        wait_until(lambda goal=goal: log.exists() and log.read_text().count("\n") >= goal, process.is_alive)
        time.sleep(random.random() * 2 * PAUSE)
        process.kill()
        process.join(LONG)
        steps = [line["step"] for line in map(_parsed, log.read_text().splitlines()) if line is not None]
        assert steps == list(range(1, len(steps) + 1))
        saved = _newest(tmp_path)
        lost.append(len(steps) - saved)
        assert lost[-1] <= most, f"{lost[-1]} steps are lost, {most} may be"
        assert saved >= done - most
        done = saved
    logger.info("%d kills lost %s steps of at least %g s; saved every %g s", KILLS, lost, PAUSE, EVERY)


def _parsed(line: str) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:  # the last one, in the middle of which the process was killed
        return None


def _newest(folder) -> int:
    from vlkit.io.checkpoint_files import STATE
    from vlkit.runner.checkpoint import Checkpoints

    newest = Checkpoints(folder / "checkpoints").newest(STATE)
    return int(newest.name[5:]) if newest else 0
