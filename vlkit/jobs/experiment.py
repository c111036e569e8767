"""From a run file to a runner: what the file names is built, looked at, and put together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlkit.config.load import Config, load_config
from vlkit.config.parts import DatasetSpec
from vlkit.config.run import RunConfig, check_run
from vlkit.datasets.base import VLDataset
from vlkit.datasets.faults import collect_faults
from vlkit.datasets.mixture import Mixture
from vlkit.errors import CheckpointError, ConfigError, VlkitError
from vlkit.jobs.awaited import NOTHING, Awaited
from vlkit.jobs.base import Problems
from vlkit.jobs.checks import bad_row_problems, data_problems, disk_problems, image_size_problems, tokenizer_notes
from vlkit.jobs.initial_weights import StartingWeights, from_card, from_path, named_card, of_run
from vlkit.jobs.nested_models import build_with_models, model_weights
from vlkit.models.weights.load import build_with_weights
from vlkit.runner import RunContext, Runner
from vlkit.runner.distributed import World
from vlkit.runner.output import OutputFolder
from vlkit.tasks.base import Task

logger = logging.getLogger(__name__)


@dataclass
class Data:
    """The datasets of a run.

    Args:
        train: training mixture; None in an evaluation.
        evals: evaluation sets by name.
        by_key: every dataset under its key path ("datasets.train.0").
    """

    train: Mixture | None = None
    evals: dict[str, VLDataset] = field(default_factory=dict)
    by_key: dict[str, VLDataset] = field(default_factory=dict)


@dataclass
class Prepared:
    """Everything that a runner needs, built and looked at."""

    model: nn.Module
    task: Task
    data: Data
    weights: StartingWeights | None


class Experiment:
    """A run file that was found to be right.

    Args:
        parts: what it names.
        training: whether it is to train; otherwise only evaluation sets are built.
    """

    def __init__(self, parts: RunConfig, training: bool = True):
        self.parts, self.training = parts, training

    @classmethod
    def open(cls, path: str | Path, overrides: Sequence[str] = (), training: bool = True) -> Experiment:
        """The experiment of a file.

        Args:
            path: run file.
            overrides: ``key.path=value``.
            training: as for the class.

        Raises:
            ConfigError: everything that is wrong with the file.
        """
        return cls.of(load_config(path, overrides), training)

    @classmethod
    def of(cls, config: Config, training: bool = True) -> Experiment:
        """The experiment of a configuration that is loaded already."""
        return cls(check_run(config, training), training)

    @property
    def output_dir(self) -> Path:
        """Where it writes."""
        return self.parts.output_dir

    def build_task(self) -> Task:
        """The task."""
        return self.parts.task.build()

    def build_datasets(self, problems: Problems | None = None, awaited: Awaited = NOTHING) -> Data:
        """The datasets that the run needs.

        Args:
            problems: takes what is wrong with any of them; None: raise it.
            awaited: datasets in there are left out, and with them the training mixture that they belong to.

        Raises:
            ConfigError: a dataset cannot be built.
        """
        found = Problems() if problems is None else problems
        data = Data()
        parts: list[DatasetSpec] = self.parts.datasets.train if self.training else []
        train = [self._dataset(part, data, found, awaited) for part in parts]
        for name, part in self.parts.datasets.eval.items():
            dataset = self._dataset(part, data, found, awaited)
            if dataset is not None:
                data.evals[name] = dataset
        usable = [dataset for dataset in train if dataset is not None]
        if parts and len(usable) == len(parts):
            with found.of(self._at("datasets.train")):
                data.train = Mixture(usable, [part.weight for part in parts], seed=self.parts.run.seed)
        if problems is None:
            found.end()
        return data

    def starting_weights(self, checkpoint: str | Path | None = None) -> StartingWeights | None:
        """Where the model's weights come from; None: they are drawn.

        Training starts from ``run.init_from``. An evaluation takes ``checkpoint``, else what the run's own folder
        holds, else ``run.init_from``, else the weights of the model's card.

        Raises:
            VlkitError: there are none to evaluate, or those that are named are not there.
        """
        if checkpoint is not None:
            return from_path(checkpoint)
        own = None if self.training else of_run(self.output_dir)
        if own is not None:
            return own
        card = self.parts.model.card.get("weights")
        named = self.parts.run.init_from
        if named == "card" or (named is None and card and not self.training):
            return from_card(self.parts.model)
        if named is not None and named.startswith("card:"):
            return named_card(named.removeprefix("card:"))
        if named is not None:
            return from_path(named)
        if self.training or self.parts.model.models:  # models inside it have their own
            return None
        raise ConfigError(
            f"there are no weights to evaluate: {self.output_dir} holds no checkpoint, run.init_from is not set and "
            "the model's card has none. Train first, or give --checkpoint FILE."
        )

    def build_model(self, weights: StartingWeights | None = None, awaited: Awaited = NOTHING) -> nn.Module:
        """The model on the CPU; what is drawn in it depends on ``run.seed`` alone.

        Args:
            weights: what to load into it.
            awaited: weights of models inside it that are still to be made there are drawn.

        Raises:
            VlkitError: the weights cannot be read, or are of another model.
        """

        def build() -> nn.Module:
            torch.manual_seed(self.parts.run.seed)
            return self.parts.model.build()

        inside = self.parts.model.models
        if weights is None and inside and not awaited.holds([each.weights for each in inside.values()]):
            torch.manual_seed(self.parts.run.seed)
            return build_with_models(self.parts.model)
        if weights is None:
            return build()
        return build_with_weights(build, weights.file(), weights.adapter)[0]

    def prepare(
        self,
        checkpoint: str | Path | None = None,
        awaited: Awaited = NOTHING,
        folder_freed: bool = False,
        every_image: bool = False,
    ) -> Prepared:
        """Build everything and look at it before the run starts.

        Args:
            checkpoint: see :meth:`starting_weights`.
            awaited: what is in there is still to be made: datasets are left out, weights are drawn.
            folder_freed: what the output folder holds will be moved away before the run.
            every_image: decode all images and videos, and not a few.

        Raises:
            ConfigError: everything that is wrong.
        """
        problems = Problems()
        run, model, task, weights = self.parts.run, None, None, None
        with problems.of(self._at("task")):
            task = self.build_task()
        data = self.build_datasets(problems, awaited)
        problems += data_problems(data.by_key, self._at, run.bad_samples == "error", every_image)
        place = "--checkpoint" if checkpoint else self._at("run.init_from" if run.init_from else "model")
        if not awaited.holds(run.init_from):
            with problems.of(place):
                weights = self.starting_weights(checkpoint)
        with problems.of(self._at("model")):
            try:
                model = self.build_model(weights, awaited)
            except CheckpointError as error:
                problems.append(f"{place}: {error}")
        if model is not None:
            problems += image_size_problems(model, data.by_key, self._at)
            for note in tokenizer_notes(model, data.by_key, self._at):
                logger.warning("%s", note)
            if self.training and not folder_freed:
                with problems.of(self._at("run.output_dir")):
                    OutputFolder(self.output_dir, self.parts.config.data).check()
            if self.training:
                problems += disk_problems(model, self.output_dir, run.keep_checkpoints + (run.monitor is not None))
        problems.end()
        assert model is not None
        assert task is not None
        return Prepared(model, task, data, weights)

    def runner(self, checkpoint: str | Path | None = None) -> Runner:
        """A runner, after everything that can be looked at beforehand was found to be right.

        Args:
            checkpoint: see :meth:`starting_weights`.

        Raises:
            ConfigError: everything that is wrong.
        """
        return self.make_runner(self.prepare(checkpoint))

    def evaluator(self, checkpoint: str | Path | None = None) -> tuple[Runner, int]:
        """Like :meth:`runner`, with the optimizer steps that the weights have had, for the record."""
        ready = self.prepare(checkpoint)
        return self.make_runner(ready), ready.weights.step() if ready.weights else 0

    def make_runner(self, ready: Prepared, world: World | None = None) -> Runner:
        """A runner of what :meth:`prepare` has built; ``world``: the processes, if they have met already."""
        facts: dict[str, Any] = {"weights": ready.weights.facts() if ready.weights else None}
        if self.parts.model.models and not ready.weights:
            facts["weights"] = {key: found.facts() for key, found in model_weights(self.parts.model).items()}
        run, config = self.parts.run, self.parts.config.data
        output = OutputFolder(self.output_dir, config, run.take_over, facts)
        return Runner(
            ready.model,
            ready.task,
            ready.data.train,
            ready.data.evals,
            self.parts.optim,
            run,
            RunContext.of(run, output, world),
        )

    def _dataset(self, part: DatasetSpec, data: Data, problems: Problems, awaited: Awaited) -> VLDataset | None:
        if awaited.holds(part.mapping):
            return None
        with problems.of(part.origin(part.where)), collect_faults() as bad:
            try:
                dataset = data.by_key[part.where] = part.build()
            except VlkitError:
                problems += bad_row_problems(bad, part.origin(part.where))
                raise
            dataset.bad_rows = (*dataset.bad_rows, *bad)
            return dataset
        return None

    def _at(self, key_path: str) -> str:
        return self.parts.config.origin(key_path)
