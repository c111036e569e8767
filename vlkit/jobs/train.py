"""Train and evaluate: the jobs of ``vlkit train`` and ``vlkit evaluate``."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
import torch.distributed as dist

from vlkit.errors import VlkitError
from vlkit.jobs.base import NOTHING, Result, digest
from vlkit.jobs.check import Prepared, check_batches, describe
from vlkit.jobs.run import RunJob
from vlkit.models.weights.initial import from_path
from vlkit.runner import Runner
from vlkit.runner.config_changes import plain, training_differences
from vlkit.runner.device import choose_device
from vlkit.runner.distributed import World
from vlkit.runner.model_state import restored
from vlkit.runner.output import OutputFolder

logger = logging.getLogger(__name__)
_SAMPLES, _SECONDS = 2, 60.0
"""Limits of the check before training: samples of each set, and the time after which no further one is read."""


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

    def changes(self, before: Mapping[str, object], finished: bool) -> str:
        if finished:
            return super().changes(before, finished)
        return training_differences(before, plain(self.config.data))

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
