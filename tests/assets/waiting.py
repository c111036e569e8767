"""Waiting for what must come, however busy the machine is: progress decides in tests, and never a clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LONG = 240.0
"""Seconds in which comes whatever is to come; the limit of a test is longer."""


def wait_until(condition: Callable[[], Any], alive: Callable[[], Any] = lambda: True) -> None:
    """Wait until ``condition`` holds, as long as that which is to fulfil it is ``alive``."""
    end = time.monotonic() + LONG
    while True:
        living = alive()  # asked first: with its last breath it may fulfil the condition
        if condition():
            return
        assert living, "it ended before"
        assert time.monotonic() < end, f"it has not come within {LONG:g} seconds"
        time.sleep(0.01)
