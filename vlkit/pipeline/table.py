"""The table at the end of a pipeline: which scores stand in it, over seeds too."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlkit.config.build import Origin
from vlkit.errors import did_you_mean
from vlkit.pipeline.entries import TableEntry
from vlkit.pipeline.stages.base import Record

logger = logging.getLogger(__name__)
Row = dict[str, Any]
"""``name`` and ``cells``, one for each column: ``value`` (which score), ``score`` (the mean over seeds; None: there is
none), and of a score with seeds ``seeds`` (by seed) and ``deviation`` (over the seeds, with n - 1; None for one)."""
Grid = list[list[str]]


@dataclass(frozen=True)
class Table:
    """What a pipeline file says of its table.

    Args:
        entries: the rows; none: one for each score.
        columns: their titles; none: there is one without title.
        seeds: of the file.
    """

    entries: list[TableEntry]
    columns: list[str]
    seeds: list[int]

    def rows(self, done: Mapping[str, Record]) -> list[Row]:
        """The table.

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
        """The table as text, with a line of titles: means and deviations."""
        lines = [[row["name"], *(_mean(cell) for cell in row["cells"])] for row in rows]
        return [[title, *(self.columns or ["score"])], *lines]

    def seeds_grid(self, title: str, rows: Sequence[Row]) -> Grid:
        """The scores of each seed as text, with a line of titles; empty without seeds."""
        if not self.seeds:
            return []
        titles = [f"{column}, seed {seed}".removeprefix(", ") for column in self.columns or [""] for seed in self.seeds]
        lines = [
            [row["name"], *(_number(cell.get("seeds", {}).get(str(s))) for cell in row["cells"] for s in self.seeds)]
            for row in rows
        ]
        return [[title, *titles], *lines]


def table_problems(
    table: Table, names: Sequence[str], sets: Mapping[str, Sequence[str] | None], origin: Origin
) -> list[str]:
    """What is wrong with a table, as far as it can be seen before there are scores.

    Args:
        names: of all stages.
        sets: evaluation sets of the stages that are right; None: a stage's scores are not by set.
        origin: says where a key path was written.
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


def _known(done: Mapping[str, Record]) -> dict[str, dict[str | None, float]]:
    """``<stage>/<score>`` to its values by seed; None stands for no seed."""
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
    """Four places, or more digits for what is large; numbers of things as they are."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.6g}"
