"""A stage that writes a dataset as web shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlkit.config.load import Config
from vlkit.datasets.shard_writer import RECORD
from vlkit.errors import VlkitError
from vlkit.jobs.awaited import Awaited
from vlkit.jobs.shards import ShardsJob
from vlkit.pipeline.stages.base import Record, Stage, StageLocation, digest, problems_of


class ShardsStage(Stage):
    """Does what ``vlkit shards`` does; the shards lie in its folder."""

    command = "shards"
    folder_key = "output_dir"
    seed_key = None

    def __init__(self, spot: StageLocation, config: Config):
        super().__init__(spot, config)
        self.job = ShardsJob.of(config)

    def problems(self, awaited: Awaited, folder_freed: bool) -> list[str]:
        if awaited.holds(self.config.data["dataset"]):
            return []
        try:
            self.job.build_dataset()
        except VlkitError as error:
            return problems_of(error)
        return []

    def essential(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        return {key: value for key, value in config.items() if key != "output_dir"}

    def product(self) -> str:
        sizes = {shard.name: shard.stat().st_size for shard in self.folder.glob("*.tar")}
        return digest([self.folder / RECORD], sizes)

    def run(self) -> Record:
        found = self.job.run()
        return {"status": "finished", "metrics": {key: found[key] for key in ("shards", "samples", "left_out")}}
