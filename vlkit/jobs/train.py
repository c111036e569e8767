"""Train and evaluate: the jobs of a run file."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import nn

from vlkit.config.load import Config
from vlkit.config.parts import DatasetSpec
from vlkit.config.run import RunConfig, check_run
from vlkit.datasets.base import VLDataset
from vlkit.datasets.faults import collect_faults
from vlkit.datasets.mixture import Mixture
from vlkit.errors import CheckpointError, ConfigError, VlkitError
from vlkit.jobs.base import NOTHING, Job, Pending, Problems, Result, digest
from vlkit.jobs.check import SAMPLES, CheckReport, Data, Prepared, add_data_notes, check_batches, describe
from vlkit.jobs.checks import bad_row_problems, data_problems, disk_problems, image_size_problems, tokenizer_notes
from vlkit.jobs.models import build_with_models, from_card, from_name, model_weights
from vlkit.models.generation import use_cuda_graphs
from vlkit.models.weights.load import InitialWeights, from_path, from_run
from vlkit.runner.config_changes import training_differences
from vlkit.runner.context import RunContext, choose_device
from vlkit.runner.distributed import World
from vlkit.runner.model_state import restored
from vlkit.runner.output import OutputFolder
from vlkit.runner.runner import Runner

logger = logging.getLogger(__name__)
_SAMPLES, _SECONDS = 2, 60.0
"""Limits of the check before training: samples of each set, and the time after which no further one is read."""


class RunJob(Job):
    """A job whose file is a run file.

    Args:
        config: the resolved run file.
        checkpoint: weights to use instead of those that the run file names.
    """

    training: ClassVar[bool]
    in_every_process = True

    def __init__(self, config: Config, checkpoint: str | Path | None = None):
        super().__init__(config)
        self.parts: RunConfig = check_run(config, self.training)
        self.checkpoint = checkpoint

    @property
    def output_dir(self) -> Path:
        """The output folder."""
        return self.parts.output_dir

    @property
    def device(self) -> str:
        return self.parts.run.device

    @property
    def eval_sets(self) -> Sequence[str]:
        return list(self.parts.datasets.eval)

    def input_fingerprints(self) -> dict[str, str | None]:
        weights = self.initial_weights()
        return {"weights": weights.fingerprint() if weights else None}

    def initial_weights(self) -> InitialWeights | None:
        """Find the weights that the model starts from; None: it is initialized at random.

        Training starts from ``run.init_from``. An evaluation takes ``checkpoint``, else the weights in the run's own
        folder, else ``run.init_from``, else the weights of the model's card.

        Raises:
            VlkitError: there are none to evaluate, or those that are named do not exist.
        """
        if self.checkpoint is not None:
            return from_path(self.checkpoint)
        own = None if self.training else from_run(self.output_dir)
        if own is not None:
            return own
        card = self.parts.model.card.get("weights")
        named = self.parts.run.init_from
        if named == "card" or (named is None and card and not self.training):
            return from_card(self.parts.model)
        if named is not None:
            return from_name(named)
        if self.training or self.parts.model.models:  # models inside it have their own
            return None
        raise ConfigError(
            f"there are no weights to evaluate: {self.output_dir} holds no checkpoint, run.init_from is not set and "
            "the model's card has none. Train first, or give --checkpoint FILE."
        )

    def build_model(self, weights: InitialWeights | None = None, pending: Pending = NOTHING) -> nn.Module:
        """Build the model on the CPU; its random initialization depends on ``run.seed`` alone.

        Args:
            weights: loaded into it.
            pending: models inside it whose weights are pending are initialized at random.

        Raises:
            VlkitError: the weights cannot be read, or are of another model.
        """

        def build() -> nn.Module:
            torch.manual_seed(self.parts.run.seed)
            return self.parts.model.build()

        if weights is not None:
            return weights.build(build)
        inner = self.parts.model.models.values()
        if inner and not any(f"{each.where}.weights" in pending for each in inner):
            torch.manual_seed(self.parts.run.seed)
            return build_with_models(self.parts.model)
        return build()

    def build_datasets(self, problems: Problems, pending: Pending = NOTHING) -> Data:
        """Build the datasets that the run needs.

        Args:
            problems: collects what is wrong with them.
            pending: pending datasets are left out, and with them the training mixture that they belong to.
        """
        data = Data()
        parts: list[DatasetSpec] = self.parts.datasets.train if self.training else []
        train = [self._build_dataset(part, data, problems, pending) for part in parts]
        for name, part in self.parts.datasets.eval.items():
            dataset = self._build_dataset(part, data, problems, pending)
            if dataset is not None:
                data.evals[name] = dataset
        usable = [dataset for dataset in train if dataset is not None]
        if parts and len(usable) == len(parts):
            with problems.of(self.config.origin("datasets.train")):
                data.train = Mixture(usable, [part.weight for part in parts], seed=self.parts.run.seed)
        return data

    def _build_dataset(self, part: DatasetSpec, data: Data, problems: Problems, pending: Pending) -> VLDataset | None:
        if part.where in pending:
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

    def prepare(self, pending: Pending = NOTHING, fresh: bool = False, every_image: bool = False) -> Prepared:
        """Build everything and check it; see :meth:`Job.prepare`.

        Args:
            pending, fresh: as there. Without pending weights the model is initialized at random.
            every_image: decode all images and videos instead of a few.

        Raises:
            ConfigError: everything that is wrong.
        """
        problems, at = Problems(), self.config.origin
        run, model, task, weights = self.parts.run, None, None, None
        with problems.of(at("task")):
            task = self.parts.task.build()
        data = self.build_datasets(problems, pending)
        problems += data_problems(data.by_key, at, run.bad_samples == "error", every_image)
        place = "--checkpoint" if self.checkpoint else at("run.init_from" if run.init_from else "model")
        if "run.init_from" not in pending:
            with problems.of(place):
                weights = self.initial_weights()
        with problems.of(at("model")):
            try:
                model = self.build_model(weights, pending)
                use_cuda_graphs(model, self.parts.run.cuda_graphs)
            except CheckpointError as error:
                problems.append(f"{place}: {error}")
        if model is not None:
            problems += image_size_problems(model, data.by_key, at)
            for note in tokenizer_notes(model, data.by_key, at):
                logger.warning("%s", note)
            if self.training and not fresh:
                with problems.of(at("run.output_dir")):
                    OutputFolder(self.output_dir, self.config.data).check()
            if self.training:
                problems += disk_problems(model, self.output_dir, run.keep_checkpoints + (run.monitor is not None))
        problems.end()
        assert model is not None
        assert task is not None
        return Prepared(self.parts, self.training, model, task, data, weights)

    def check(self, pending: Pending = NOTHING, every_image: bool = False) -> list[tuple[str, str]]:
        return self.check_report(pending, every_image).lines()

    def check_report(self, pending: Pending = NOTHING, every_image: bool = False, world_size: int = 1) -> CheckReport:
        """Do everything but train or evaluate; see :meth:`Job.check`.

        Args:
            pending, every_image: as there.
            world_size: processes among which a training step would be divided.
        """
        ready = self.prepare(pending, every_image=every_image)
        report = describe(ready, pending)
        check_batches(ready, report, world_size, SAMPLES, math.inf)
        add_data_notes(ready, report, every_image)
        return report

    def make_runner(self, ready: Prepared, world: World | None = None) -> Runner:
        """Return a runner of what :meth:`prepare` has built.

        Args:
            ready: model, task and data.
            world: the processes, if they have met already.
        """
        facts: dict[str, Any] = {"weights": ready.weights.facts() if ready.weights else None}
        if self.parts.model.models and not ready.weights:
            facts["weights"] = {key: found.facts() for key, found in model_weights(self.parts.model).items()}
        run = self.parts.run
        context = RunContext.of(run, OutputFolder(self.output_dir, self.config.data, run.take_over, facts), world)
        data = ready.data
        return Runner(ready.model, ready.task, data.train, data.evals, self.parts.optim, run, context)


class TrainJob(RunJob):
    """Train as a run file says."""

    command = "train"
    training = True
    first_batch = True
    """Whether :meth:`checked_runner` tries a training batch."""

    def run(self) -> Result:
        with self.checked_runner() as runner:
            return runner.train()

    def record(self, result: Result) -> Result:
        kept = ("status", "metrics", "best", "checkpoint", "seconds", "signal")
        return {key: result[key] for key in kept if key in result}

    def output_fingerprint(self) -> str:
        return from_path(self.output_dir).fingerprint()

    def differences(self, before: Mapping[str, Any], now: Mapping[str, Any], finished: bool) -> str:
        return super().differences(before, now, finished) if finished else training_differences(before, now)

    def checked_runner(self) -> Runner:
        """Return a runner for training after checks that take seconds: :meth:`prepare`, and, unless ``run.check`` is
        false or the run is finished, a first batch forward and backward and two samples of each evaluation set. Model
        and random numbers stay as they are.

        Each process of ``torchrun`` checks on its own and is notified of what the others have found. Where the
        processes have met already, as in a pipeline, no batch is computed: models would wait for one another.

        Raises:
            ConfigError: everything that is wrong.
            VlkitError: something is wrong in another process.
        """
        world, met = World(), dist.is_initialized()
        failure: Exception | None = None
        folder = OutputFolder(self.output_dir, self.config.data, self.parts.run.take_over)
        try:
            if world.is_main:
                folder.writer.refuse()
            ready = self.prepare()
            if self.parts.run.check and not met and folder.finished() is None:
                self._try_out(ready, world)
        except Exception as error:  # whatever it is, the others wait
            failure = error
        if not met:
            _agree(world, failure, self.parts.run.device)
        if failure is not None:
            raise failure
        return self.make_runner(ready, None if met else world)

    def _try_out(self, ready: Prepared, world: World) -> None:
        report = describe(ready, NOTHING)
        ready.model.to(choose_device(self.parts.run.device, world.local_rank))
        with restored(ready.model, ready.task):
            check_batches(ready, report, world.size, _SAMPLES, _SECONDS, self.first_batch)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


class EvaluateJob(RunJob):
    """Evaluate on the evaluation sets of a run file."""

    command = "evaluate"
    training = False

    def run(self) -> Result:
        ready = self.prepare()
        with self.make_runner(ready) as runner:
            step = ready.weights.step() if ready.weights else 0
            return {"status": "finished", "metrics": runner.evaluate(step)}

    def output_fingerprint(self) -> str:
        return digest([self.output_dir / "evaluation.json"])


def _agree(world: World, failure: Exception | None, device: str) -> None:
    """Meet the other processes, and end with them if something is wrong in any."""
    if world.size == 1:
        return
    if failure is not None:
        logger.error("%s (Waiting for the other processes, to end with them.)", failure)
    world.start(choose_device(device, world.local_rank))
    found = world.gather([None if failure is None else str(failure) or type(failure).__name__])
    if any(found):
        world.finish()
    if failure is None:
        for rank, problem in enumerate(found):
            if problem:
                raise VlkitError(f"process {rank}: {problem}")
