"""A stage that decides anew which texts of a CapFilt output are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlkit.capfilt.apply import apply
from vlkit.capfilt.decision import Decision
from vlkit.config.build import build
from vlkit.config.load import Config
from vlkit.errors import VlkitError
from vlkit.jobs.awaited import Awaited
from vlkit.pipeline.stages.base import Record, Stage, StageLocation
from vlkit.pipeline.stages.outputs import output_digest, shares, source_problems
from vlkit.registry.bounds import Processes


@dataclass(frozen=True)
class CutEntries:
    """What the configuration of such a stage may hold.

    Args:
        source: output folder of ``vlkit capfilt``, or of a stage capfilt or cut.
        decision: which texts are kept.
        workers: processes.
        output_dir: set by the pipeline.
    """

    source: str
    decision: Decision
    workers: Processes = 1
    output_dir: Path = Path()


class CutStage(Stage):
    """Does what ``vlkit capfilt apply`` does; ``kept/`` in its folder holds the shards."""

    command = "cut"
    folder_key = "output_dir"
    seed_key = None

    def __init__(self, spot: StageLocation, config: Config):
        super().__init__(spot, config)
        self.entries: CutEntries = build(CutEntries, config.data, "", config.origin)

    def problems(self, awaited: Awaited, folder_freed: bool) -> list[str]:
        return source_problems(self.entries.source, self.config, awaited)

    def essential(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        return {key: value for key, value in config.items() if key not in ("output_dir", "workers")}

    def product(self) -> str:
        return output_digest(self.folder)

    def run(self) -> Record:
        found = apply(self.entries.source, self.folder, self.entries.decision, self.entries.workers)
        if found["missing"]:
            raise VlkitError(f"{self.entries.source}: {found['missing']} shards are not done yet.")
        return {"status": "finished", "metrics": shares(found)}
