"""The table of a pipeline as a plot: a panel for each column, a line for each row, a point for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlkit.errors import MissingDependency
from vlkit.io.files import atomic_write
from vlkit.pipeline.table import Row

_ROW_INCHES = 0.32
_PANEL_INCHES = 2.9
_LETTER_INCHES = 0.085


def draw_table(rows: Sequence[Row], columns: Sequence[str], title: str, path: Path) -> None:
    """Draw means with error bars (the standard deviation over the seeds) and the scores of each seed.

    Args:
        rows: of the table; the first is at the top.
        columns: title of each panel.
        title: of the whole.
        path: PNG to be written.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("matplotlib", "the plot of a pipeline's results", "plot") from error

    labels = max((len(row["name"]) for row in rows), default=1) * _LETTER_INCHES
    size = (labels + _PANEL_INCHES * len(columns), 1.1 + _ROW_INCHES * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    places = range(len(rows))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for index, (panel, column) in enumerate(zip(panels, columns)):
        cells = [row["cells"][index] for row in rows]
        for place, cell in zip(places, cells):
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
    panels[0].set_yticks(list(places), [row["name"] for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)
