"""Timing two implementations in turn, and the table of the results."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.memory import measure_peak
from vlkit.io.files import atomic_write


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        work: what was done.
        dtype: of ours, fp32 or bf16.
        ours_s: seconds, median, not rounded: ratios and speeds are computed from it.
        peer: the other implementation and its version.
        peer_s: its seconds, median.
        ratio: ``peer_s / ours_s``.
        outputs_equal: whether both gave the same.
        wanted: least ratio; None: any.
        ours_mib: peak memory of ours over what was in use before, as :func:`benchmarks.memory.measure_peak` says.
        peer_mib: that of the other.
        gflops: GFLOP/s of ours; None: not counted.
        note: what else there is to say.
    """

    work: str
    dtype: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    outputs_equal: bool
    wanted: float | None = None
    ours_mib: float | None = None
    peer_mib: float | None = None
    gflops: float | None = None
    note: str = ""


def compare(
    work: str,
    dtype: str,
    peer: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    equal: Callable[[Any, Any], bool],
    repeat: int = 3,
    *,
    wanted: float | None = None,
    flop: float | None = None,
) -> Row:
    """Run both once to warm up, to check their outputs and for their peak memory; then ``repeat`` times in turn, so
    that a machine whose speed drifts slows both.

    Args:
        work, dtype, peer: for the row.
        ours, theirs: what to time; each returns its output.
        equal: compares the outputs.
        repeat: timed runs of each.
        wanted: least ratio, for the row.
        flop: floating-point operations of one run of ours.
    """
    mine, ours_mib = measure_peak(ours)
    other, peer_mib = measure_peak(theirs)
    same = bool(equal(mine, other))
    del mine, other
    taken: list[tuple[float, float]] = [(seconds(ours), seconds(theirs)) for _ in range(repeat)]
    ours_s, peer_s = (statistics.median(times) for times in zip(*taken, strict=True))
    return Row(
        work,
        dtype,
        ours_s,
        peer,
        peer_s,
        peer_s / ours_s,
        same,
        wanted,
        ours_mib,
        peer_mib,
        None if flop is None else flop / ours_s / 1e9,
    )


def seconds(run: Callable[[], Any]) -> float:
    """How long ``run`` takes, until the GPU (where there is one at work) has done it all.

    Returns:
        Seconds, above 0 even where the clock is too coarse to see the run.
    """
    _finish()
    start = time.perf_counter()
    run()
    _finish()
    return max(time.perf_counter() - start, 1e-9)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown; a ratio below what is wanted says so. Columns that are empty in all rows are left out."""
    columns: dict[str, Callable[[Row], str]] = {
        "work": lambda row: row.work,
        "dtype": lambda row: row.dtype,
        "vlkit (s)": lambda row: f"{row.ours_s:.3f}",
        "peer": lambda row: row.peer,
        "peer (s)": lambda row: f"{row.peer_s:.3f}",
        "ratio": _ratio,
        "wanted": lambda row: _number(row.wanted, 2),
        "GFLOP/s": lambda row: _number(row.gflops, 0),
        "vlkit (MiB)": lambda row: _number(row.ours_mib, 0),
        "peer (MiB)": lambda row: _number(row.peer_mib, 0),
        "outputs": lambda row: "equal" if row.outputs_equal else "DIFFER",
        "note": lambda row: row.note,
    }
    cells = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    lines = [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in zip(*cells.values(), strict=True))])


def write_json(rows: Sequence[Any], path: str, machine: Mapping[str, Any] | None = None) -> None:
    """Rows (dataclasses) as a JSON list.

    Args:
        rows: what to write.
        path: of the file.
        machine: stands in every row, so that a row out of a file says where it was measured.
    """
    where = {} if machine is None else {"machine": dict(machine)}
    with atomic_write(path, "w") as file:
        json.dump([readable(asdict(row)) | where for row in rows], file, indent=1)


def readable(row: dict[str, Any]) -> dict[str, Any]:
    """``row`` with five significant digits in each number; nothing is computed from these."""
    return {name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in row.items()}


def _finish() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _ratio(row: Row) -> str:
    below = row.wanted is not None and row.ratio < row.wanted
    return f"{row.ratio:.2f} (< {row.wanted:.2f})" if below else f"{row.ratio:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
