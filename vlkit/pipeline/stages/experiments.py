"""Stages that are runs: training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlkit.config.load import Config
from vlkit.errors import ConfigError
from vlkit.jobs.awaited import Awaited
from vlkit.jobs.check import Report, rehearse
from vlkit.jobs.experiment import Experiment
from vlkit.jobs.initial_weights import from_path
from vlkit.jobs.train import checked_runner
from vlkit.pipeline.stages.base import Record, Stage, StageLocation, digest
from vlkit.runner.config_changes import plain, training_differences


class ExperimentStage(Stage):
    """A stage whose configuration is a run file's."""

    in_every_process = True
    training: bool

    def __init__(self, spot: StageLocation, config: Config):
        super().__init__(spot, config)
        self.experiment = Experiment.of(config, training=self.training)

    @property
    def device(self) -> str:
        return self.experiment.parts.run.device

    @property
    def sets(self) -> Sequence[str]:
        return list(self.experiment.parts.datasets.eval)

    def problems(self, awaited: Awaited, folder_freed: bool) -> list[str]:
        try:
            self.experiment.prepare(awaited=awaited, folder_freed=folder_freed)
        except ConfigError as error:
            return error.problems
        return []

    def rehearse(self, awaited: Awaited, every_image: bool = False) -> Report:
        return rehearse(self.experiment, awaited=awaited, every_image=every_image)

    def outside(self) -> dict[str, str | None]:
        weights = self.experiment.starting_weights()
        return {"weights": weights.fingerprint() if weights else None}


class TrainStage(ExperimentStage):
    """Trains, as ``vlkit train`` does."""

    command = "train"
    training = True

    def changes(self, before: Mapping[str, Any], finished: bool) -> str:
        if finished:
            return super().changes(before, finished)
        return training_differences(before, plain(self.config.data))

    def product(self) -> str:
        return from_path(self.folder).fingerprint()

    def run(self) -> Record:
        with checked_runner(self.experiment, first_batch=False) as runner:
            result = runner.train()
        kept = ("status", "metrics", "best", "checkpoint", "seconds", "signal")
        return {key: result[key] for key in kept if key in result}


class EvaluateStage(ExperimentStage):
    """Evaluates, as ``vlkit evaluate`` does."""

    command = "evaluate"
    training = False

    def product(self) -> str:
        return digest([self.folder / "evaluation.json"])

    def run(self) -> Record:
        runner, step = self.experiment.evaluator()
        with runner:
            return {"status": "finished", "metrics": runner.evaluate(step)}
