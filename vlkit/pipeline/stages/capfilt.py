"""A stage that captions and filters web images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vlkit.capfilt.job import Job
from vlkit.capfilt.job_file import NEUTRAL
from vlkit.capfilt.run import run_job
from vlkit.capfilt.sources import find_inputs
from vlkit.config.load import Config
from vlkit.errors import ConfigError
from vlkit.jobs.awaited import Awaited
from vlkit.jobs.base import Problems
from vlkit.jobs.nested_models import model_weights
from vlkit.pipeline.stages.base import Record, Stage, StageLocation
from vlkit.pipeline.stages.outputs import output_digest, shares


class CapFiltStage(Stage):
    """Does what ``vlkit capfilt`` does; ``kept/`` in its folder holds the bootstrapped shards."""

    command = "capfilt"
    in_every_process = True

    def __init__(self, spot: StageLocation, config: Config):
        super().__init__(spot, config)
        self.job = Job.of(config)

    @property
    def device(self) -> str:
        return self.job.file.run.device

    def problems(self, awaited: Awaited, folder_freed: bool) -> list[str]:
        found = Problems()
        if folder_freed or awaited.holds(self.config.data):
            self._look(awaited, found)
        else:
            with found.of(""):
                self.job.check()
        return found

    def product(self) -> str:
        return output_digest(self.folder)

    def run(self) -> Record:
        found = run_job(self.job)
        if found["status"] == "interrupted":
            return {"status": "interrupted", "signal": found["signal"], "metrics": {}}
        return {"status": "finished", "metrics": shares(found), "worked": found["worked"]}

    def essential(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        run = {key: value for key, value in (config.get("run") or {}).items() if key not in NEUTRAL}
        return {**config, "run": run}

    def _look(self, awaited: Awaited, problems: Problems) -> None:
        """Look at what is there already."""
        file, origin = self.job.file, self.config.origin
        if not awaited.holds(self.config.data["input"]):
            with problems.of(origin("input")):
                find_inputs(file.input)
        models = {role: each for role, each in file.model.models.items() if not awaited.holds(each.weights)}
        with problems.of(""):  # these say themselves where
            model_weights(dataclasses.replace(file.model, models=models))
            if not file.model.models:
                raise ConfigError(f"{origin('model')}: {file.model.name} has no captioner.")
