"""A stage that tells what CapFilt did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from vlkit.capfilt.report import write_report
from vlkit.config.build import build
from vlkit.config.load import Config
from vlkit.jobs.awaited import Awaited
from vlkit.pipeline.stages.base import Record, Stage, StageLocation, digest
from vlkit.pipeline.stages.outputs import source_problems
from vlkit.registry.bounds import Range


@dataclass(frozen=True)
class ReportEntries:
    """What the configuration of such a stage may hold.

    Args:
        source: output folder of ``vlkit capfilt``, or of a stage capfilt or cut.
        examples: images drawn from the set, and as many at the border.
        output_dir: set by the pipeline.
    """

    source: str
    examples: Annotated[int, Range(0, 10_000)] = 24
    output_dir: Path = Path()


class ReportStage(Stage):
    """Does what ``vlkit capfilt report`` does; numbers, page and picture lie in its folder."""

    command = "report"
    folder_key = "output_dir"
    seed_key = None

    def __init__(self, spot: StageLocation, config: Config):
        super().__init__(spot, config)
        self.entries: ReportEntries = build(ReportEntries, config.data, "", config.origin)

    def problems(self, awaited: Awaited, folder_freed: bool) -> list[str]:
        return source_problems(self.entries.source, self.config, awaited)

    def product(self) -> str:
        return digest([self.folder / "report.json"])

    def run(self) -> Record:
        told = write_report(self.entries.source, self.folder, self.entries.examples)
        metrics = {key: value for key, value in _numbers(told).items() if value is not None}
        return {"status": "finished", "metrics": metrics, "picture": str(self.folder / "report.png")}


def _numbers(told: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a report that stand alone; nested ones as ``counts/images/kept``."""
    found: dict[str, float] = {}
    for key, value in told.items():
        if isinstance(value, Mapping) and key in ("counts", "images", "texts", "web", "synthetic"):
            found |= {f"{key}/{name}": each for name, each in _numbers(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[key] = value
    return found
