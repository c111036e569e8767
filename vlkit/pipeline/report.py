"""The final table of a pipeline, with means and deviations over seeds: as text, as a Markdown page and as a plot."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlkit.config.build import Origin
from vlkit.errors import did_you_mean
from vlkit.io.files import atomic_write
from vlkit.jobs.base import Result
from vlkit.pipeline.schema import TableEntry

logger = logging.getLogger(__name__)
Row = dict[str, Any]
"""``name`` and ``cells``, one for each column: ``value`` (which score), ``score`` (the mean over seeds; None: there is
none), and of a score with seeds ``seeds`` (by seed) and ``deviation`` (over the seeds, with n - 1; None for one)."""
Grid = list[list[str]]
_ROW_INCHES = 0.32
_PANEL_INCHES = 2.9
_LETTER_INCHES = 0.085


@dataclass(frozen=True)
class Table:
    """The table of a pipeline file.

    Args:
        entries: the rows; none: one for each score.
        columns: their titles; none: there is one without title.
        seeds: of the file.
    """

    entries: list[TableEntry]
    columns: list[str]
    seeds: list[int]

    def rows(self, done: Mapping[str, Result]) -> list[Row]:
        """Fill the table.

        Args:
            done: the records of all stages by key.
        """
        known = _known(done)
        entries = self.entries or [TableEntry(name, name) for name in known]
        wanted = [value for entry in entries for value in entry.cells if value is not None]
        for value in dict.fromkeys(wanted):
            if value not in known:
                logger.warning("table: no stage gave the score %r.%s", value, did_you_mean(value, known))
        return [{"name": entry.name, "cells": [_cell(value, known) for value in entry.cells]} for entry in entries]

    def grid(self, title: str, rows: Sequence[Row]) -> Grid:
        """Format means and deviations, below a line of titles."""
        lines = [[row["name"], *(_mean(cell) for cell in row["cells"])] for row in rows]
        return [[title, *(self.columns or ["score"])], *lines]

    def seeds_grid(self, title: str, rows: Sequence[Row]) -> Grid:
        """Format the scores of each seed, below a line of titles; empty without seeds."""
        if not self.seeds:
            return []
        titles = [f"{column}, seed {seed}".removeprefix(", ") for column in self.columns or [""] for seed in self.seeds]
        lines = [
            [row["name"], *(_number(cell.get("seeds", {}).get(str(s))) for cell in row["cells"] for s in self.seeds)]
            for row in rows
        ]
        return [[title, *titles], *lines]

    def markdown(self, title: str, rows: Sequence[Row]) -> str:
        """Format the table as a Markdown page."""
        grids = [self.grid("score", rows), self.seeds_grid("score", rows)]
        notes = ["Mean ± standard deviation over the seeds, and the scores of each seed."] if self.seeds else []
        parts = [f"# {title}", *notes, *("\n".join(_lines(grid)) for grid in grids if grid)]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path, title: str, rows: Sequence[Row]) -> list[Path]:
        """Write ``results.md``, and ``results.png`` of a table with seeds or columns.

        Returns:
            The files that were written.
        """
        page, plot = folder / "results.md", folder / "results.png"
        with atomic_write(page, "w") as file:
            file.write(self.markdown(title, rows))
        if not self.seeds and not self.columns:
            return [page]
        draw_table(rows, self.columns or [""], title, plot)
        return [page, plot]


def table_problems(
    table: Table, names: Sequence[str], sets: Mapping[str, Sequence[str] | None], origin: Origin
) -> list[str]:
    """Find problems of a table before there are scores.

    Args:
        table: to be checked.
        names: of all stages.
        sets: evaluation sets of the valid stages; None: a stage's scores are not by set.
        origin: returns the file and line of a key path.
    """
    known = [f"{name}/{each}" for name, found in sets.items() for each in found or ("<score>",)]
    problems = []
    for index, entry in enumerate(table.entries):
        where = "value" if entry.values is None else "values"
        place = origin(f"table.{index}.{where}")
        if len(entry.cells) != max(1, len(table.columns)):
            problems.append(f"{place}: {len(entry.cells)} given; the table has {len(table.columns) or 'no'} columns.")
        for value in [value for value in entry.cells if value is not None]:
            stage, _, rest = value.partition("/")
            chosen = f"{stage}/{rest.partition('/')[0]}"
            wrong = stage not in names or not rest or (sets.get(stage) is not None and chosen not in known)
            if wrong:
                problems.append(
                    f"{place}: {value!r} names no evaluation set of a stage.{did_you_mean(chosen, known)} Write "
                    f"<stage>/<set>/<score>; known: {', '.join(known)}."
                )
    return problems


def draw_table(rows: Sequence[Row], columns: Sequence[str], title: str, path: Path) -> None:
    """Plot a panel for each column, a line for each row: means with error bars (the standard deviation over the seeds)
    and a point for each seed.

    Args:
        rows: of the table; the first is at the top.
        columns: title of each panel.
        title: of the figure.
        path: PNG to be written.
    """
    from matplotlib.figure import Figure  # a slow import

    labels = max((len(row["name"]) for row in rows), default=1) * _LETTER_INCHES
    size = (labels + _PANEL_INCHES * len(columns), 1.1 + _ROW_INCHES * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for index, (panel, column) in enumerate(zip(panels, columns)):
        for place, cell in enumerate(row["cells"][index] for row in rows):
            if cell["score"] is None:
                continue
            seeds = [score for score in cell.get("seeds", {}).values() if score is not None]
            panel.plot(seeds, [place] * len(seeds), "o", color="0.55", markersize=4, zorder=2)
            deviation = cell.get("deviation") or 0.0
            panel.errorbar(cell["score"], place, xerr=deviation, fmt="D", color="tab:blue", capsize=4, zorder=3)
        panel.set_title(column, fontsize=10)
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=8)
    panels[0].set_yticks(range(len(rows)), [row["name"] for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _lines(grid: Grid) -> list[str]:
    head, *rows = [[cell.replace("|", "\\|") for cell in line] for line in grid]
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(line)} |" for line in rows)]


def _known(done: Mapping[str, Result]) -> dict[str, dict[str | None, float]]:
    """Map ``<stage>/<score>`` to its values by seed; None stands for no seed."""
    found: dict[str, dict[str | None, float]] = {}
    for key, record in done.items():
        folder, _, name = key.rpartition("/")
        seed = folder.removeprefix("seed_") or None
        for score, value in record["metrics"].items():
            found.setdefault(f"{name}/{score}", {})[seed] = value
    return found


def _cell(value: str | None, known: Mapping[str, dict[str | None, float]]) -> dict[str, Any]:
    found = known.get(value or "", {})
    scores = [score for score in found.values() if score is not None]
    mean = statistics.fmean(scores) if len(scores) > 1 else next(iter(scores), None)
    cell: dict[str, Any] = {"value": value, "score": mean}
    if found and None not in found:
        cell["deviation"] = statistics.stdev(scores) if len(scores) > 1 else None
        cell["seeds"] = dict(found)
    return cell


def _mean(cell: Mapping[str, Any]) -> str:
    deviation = cell.get("deviation")
    return _number(cell["score"]) + ("" if deviation is None else f" ± {_number(deviation)}")


def _number(value: float | None) -> str:
    """Format with four places, or more digits for large values; integers as they are."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.6g}"
