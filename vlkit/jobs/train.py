"""Checks of a training run that take seconds, before it starts."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from vlkit.errors import VlkitError
from vlkit.jobs.awaited import NOTHING
from vlkit.jobs.check import facts, go_through
from vlkit.jobs.experiment import Experiment, Prepared
from vlkit.runner import Runner
from vlkit.runner.device import choose_device
from vlkit.runner.distributed import World
from vlkit.runner.output import OutputFolder
from vlkit.runner.restored import restored

logger = logging.getLogger(__name__)
_FEW, _SECONDS = 2, 60.0
"""Samples of each set, and the time after which no further one is begun."""


def checked_runner(experiment: Experiment, first_batch: bool = True) -> Runner:
    """A runner for training, after a look at everything that can be wrong, which takes seconds: what
    :meth:`Experiment.prepare` finds; and, unless ``run.check`` is false or the run is finished, a first batch forward
    and backward and two samples of each evaluation set. Model and random numbers stay as they are.

    Every process of ``torchrun`` looks for itself, and hears of what the others have found. Where the processes have
    met already, as in a pipeline, no batch is computed: models would wait for one another.

    Args:
        experiment: the run.
        first_batch: whether a training batch is tried; the first step would fail as soon, with a folder begun.

    Raises:
        ConfigError: everything that is wrong.
        VlkitError: something is wrong in another process.
    """
    world, met = World(), dist.is_initialized()
    failure: Exception | None = None
    try:
        if world.is_main:
            _folder(experiment).writer.refuse()
        ready = experiment.prepare()
        if experiment.parts.run.check and not met and _unfinished(experiment):
            _try_out(experiment, ready, world, first_batch)
    except Exception as error:  # whatever it is, the others wait
        failure = error
    if not met:
        _agree(world, failure, experiment.parts.run.device)
    if failure is not None:
        raise failure
    return experiment.make_runner(ready, None if met else world)


def _try_out(experiment: Experiment, ready: Prepared, world: World, first_batch: bool) -> None:
    report = facts(experiment, ready, NOTHING)
    ready.model.to(choose_device(experiment.parts.run.device, world.local_rank))
    with restored(ready.model, ready.task):
        go_through(experiment, ready, report, world.size, _FEW, _SECONDS, first_batch)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _agree(world: World, failure: Exception | None, device: str) -> None:
    """Meet the other processes, and end with them if something is wrong in any."""
    if world.size == 1:
        return
    if failure is not None:
        logger.error("%s (The other processes are waited for, to end with them.)", failure)
    world.start(choose_device(device, world.local_rank))
    found = world.gather([None if failure is None else str(failure) or type(failure).__name__])
    if any(found):
        world.finish()
    if failure is None:
        for rank, problem in enumerate(found):
            if problem:
                raise VlkitError(f"process {rank}: {problem}")


def _unfinished(experiment: Experiment) -> bool:
    return _folder(experiment).finished() is None


def _folder(experiment: Experiment) -> OutputFolder:
    return OutputFolder(experiment.output_dir, experiment.parts.config.data, experiment.parts.run.take_over)
