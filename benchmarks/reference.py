"""Time a piece of work, and put it beside the reference: the original's loops in ``benchmarks/original``."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.compare import Row, seconds
from benchmarks.memory import measure_peak

NAME = "original's loops, fp32"
"""What a row calls the reference."""


@dataclass
class Measured:
    """What a piece of work gave and took.

    Args:
        output: of its first run.
        seconds: median, or of its only run.
        mib: peak memory of its first run; None: not known.
    """

    output: Any
    seconds: float
    mib: float | None


def measure(run: Callable[[], Any], repeat: int) -> Measured:
    """Run once to warm up, for the output and for peak memory, then ``repeat`` times against the clock; with
    ``repeat`` 0 the one run is timed."""
    first: list[Any] = []
    taken = seconds(lambda: first.extend(measure_peak(run)))
    times = [seconds(run) for _ in range(repeat)]
    return Measured(first[0], statistics.median(times or [taken]), first[1])


def row(
    work: str,
    dtype: str,
    ours: Measured,
    theirs: Measured,
    equal: bool,
    wanted: float | None = None,
    note: str = "",
) -> Row:
    """The row of two measurements."""
    ratio = theirs.seconds / ours.seconds
    return Row(work, dtype, ours.seconds, NAME, theirs.seconds, ratio, equal, wanted, ours.mib, theirs.mib, None, note)
