"""Timing two implementations in turn, and the table of the results."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlkit.io import atomic_write


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        work: what was done.
        dtype: fp32 or bf16.
        ours_s: seconds, median.
        peer: the other implementation and its version.
        peer_s: its seconds, median.
        ratio: ``peer_s / ours_s``.
        outputs_equal: whether both gave the same.
    """

    work: str
    dtype: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    outputs_equal: bool


def compare(
    work: str,
    dtype: str,
    peer: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    equal: Callable[[Any, Any], bool],
    repeat: int = 3,
) -> Row:
    """Run both once to warm up and to check their outputs, then ``repeat`` times in turn, so that a machine whose speed
    drifts slows both.

    Args:
        work, dtype, peer: for the row.
        ours, theirs: what to time; each returns its output.
        equal: compares the outputs.
        repeat: timed runs of each.
    """
    same = equal(ours(), theirs())
    times: dict[Callable[[], Any], list[float]] = {ours: [], theirs: []}
    for _ in range(repeat):
        for run, taken in times.items():
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    mine, other = statistics.median(times[ours]), statistics.median(times[theirs])
    return Row(work, dtype, round(mine, 4), peer, round(other, 4), round(other / mine, 2), same)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| work | dtype | vlkit (s) | peer | peer (s) | ratio | outputs |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        outputs = "equal" if row.outputs_equal else "DIFFER"
        cells = (row.work, row.dtype, f"{row.ours_s:.3f}", row.peer, f"{row.peer_s:.3f}", f"{row.ratio:.2f}", outputs)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_json(rows: Sequence[Any], path: str) -> None:
    """Rows (dataclasses) as a JSON list."""
    with atomic_write(path, "w") as file:
        json.dump([asdict(row) for row in rows], file, indent=1)
