"""What a finished pipeline leaves in its folder: its table as JSON, as a page and as a plot."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlkit.errors import MissingDependency
from vlkit.io.files import atomic_write
from vlkit.pipeline.file import PipelineFile
from vlkit.pipeline.plot import draw_table
from vlkit.pipeline.record import write_json
from vlkit.pipeline.stages.base import Record
from vlkit.pipeline.table import Grid, Row

logger = logging.getLogger(__name__)


def write_results(file: PipelineFile, done: Mapping[str, Record]) -> dict[str, Any]:
    """Write them.

    Args:
        file: the pipeline.
        done: the records of all stages by key.

    Returns:
        ``status``, ``variant``, ``stages`` (the records), ``table`` (its rows) and ``written`` (files).
    """
    rows = file.table.rows(done)
    results = {"status": "finished", "variant": file.variant, "stages": dict(done), "table": rows}
    shown = {key: {name: each for name, each in record.items() if name != "config"} for key, record in done.items()}
    table = rows if file.table.columns else [{"name": row["name"], **row["cells"][0]} for row in rows]
    written = [file.folder / "results.json", file.folder / "results.md"]
    write_json(written[0], {"pipeline": str(file.path), **results, "stages": shown, "table": table})
    with atomic_write(written[1], "w") as page:
        page.write(markdown(file, rows))
    if file.table.seeds or file.table.columns:
        written += _plot(file, rows)
    return {**results, "written": [str(path) for path in written]}


def markdown(file: PipelineFile, rows: Sequence[Row]) -> str:
    """The table as a Markdown page."""
    grids = [file.table.grid("score", rows), file.table.seeds_grid("score", rows)]
    notes = ["Mean ± standard deviation over the seeds, and the scores of each seed."] if file.table.seeds else []
    parts = [f"# {file.path.stem}", *notes, *("\n".join(_lines(grid)) for grid in grids if grid)]
    return "\n\n".join(parts) + "\n"


def _lines(grid: Grid) -> list[str]:
    head, *rows = [[cell.replace("|", "\\|") for cell in line] for line in grid]
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(line)} |" for line in rows)]


def _plot(file: PipelineFile, rows: Sequence[Row]) -> list[Path]:
    path = file.folder / "results.png"
    try:
        draw_table(rows, file.table.columns or [""], file.path.stem, path)
    except MissingDependency as error:
        logger.info("no plot: %s", error)
        return []
    return [path]
