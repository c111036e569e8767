"""Train a model from its first or last step to the end of the run."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch

from vlkit.config.schema import OptimConfig, RunOptions
from vlkit.datasets.mixture import Mixture
from vlkit.errors import RunFailed, VlkitError
from vlkit.runner.activation_checkpointing import AutoCheckpointing, device_memory
from vlkit.runner.context import RunContext
from vlkit.runner.distributed import is_communication_error
from vlkit.runner.evaluation import Evaluator, Interrupted
from vlkit.runner.log import NonFinite
from vlkit.runner.model_state import start_training
from vlkit.runner.parallel import Parallel
from vlkit.runner.resuming import SAVING, Resumable
from vlkit.runner.schedules import learning_rate
from vlkit.runner.signals import StopRequest
from vlkit.runner.train_step import TrainStep
from vlkit.runner.writer import FolderTaken
from vlkit.tasks.base import Task

logger = logging.getLogger(__name__)


class Trainer(Resumable):
    """Train a model; :class:`~vlkit.runner.runner.Runner` creates it.

    Args:
        parallel: the model, on its device.
        task: turns batches into losses.
        mixture, evaluator, optim, run, context: see :class:`~vlkit.runner.resuming.Resumable`.
    """

    def __init__(
        self,
        parallel: Parallel,
        task: Task,
        mixture: Mixture,
        evaluator: Evaluator | None,
        optim: OptimConfig,
        run: RunOptions,
        context: RunContext,
    ):
        super().__init__(parallel, mixture, evaluator, optim, run, context)
        memory = device_memory(context.device) if run.activation_checkpointing == "auto" else None
        self.auto_checkpointing = AutoCheckpointing(self.model, memory, self.world, run.grad_accum_steps)
        parallel.wrap()
        self.optimizer = parallel.optimizer(optim)
        self.train_step = TrainStep(parallel, task, self.loader, self.optimizer, self.window, context, optim.grad_clip)

    def train(self, stop: StopRequest) -> dict[str, Any]:
        """Train to the end of the run, or until ``stop``.

        Returns:
            ``status`` (finished or interrupted), ``step``, ``metrics``, ``best`` and more.

        Raises:
            NonFinite: a loss is NaN or infinite; ``nonfinite.json`` names the samples.
            VlkitError: another failure, after an attempt to save; it says what is saved and how to resume.
        """
        self.resume()
        try:
            with self.guarded("the start of the log"):
                self.reporter.open(self.step)
                result = self._loop(stop)
                self.doing = "the end of the log"
                self.reporter.close()
                return result
        except NonFinite as error:
            if self.world.is_main:
                found = {"step": error.step, "value": error.name, "sample_ids": error.sample_ids}
                self.output.write_json("nonfinite.json", found)
            raise
        finally:
            self.loader.close()
            with contextlib.suppress(Exception):  # must not hide an earlier error
                self.reporter.close()

    @contextlib.contextmanager
    def guarded(self, doing: str) -> Iterator[None]:
        """Lose no step by an error inside the context: write a checkpoint if needed and possible, and add to the error
        where it is and how to resume.

        Args:
            doing: what is done inside, for the message.
        """
        self.doing = doing
        try:
            yield
        except (NonFinite, FolderTaken):
            raise
        except BaseException as error:  # tasks and trackers may even call sys.exit()
            self._end_by(error)

    def _loop(self, stop: StopRequest) -> dict[str, Any]:
        start_training(self.model)
        while True:
            if self.world.size == 1:
                stop.adopt(stop.flags())
            ends = self.plan.ends(self.step, self.clock.agreed)
            evaluate = self.evaluated != self.step and self.evaluation_due()
            elapsed = self.clock.agreed - self.clock.saved
            if stop.number is not None or evaluate or ends or self.plan.checkpoint_every.due(self.step, elapsed):
                self.save()
            if evaluate and stop.number is None:
                self._evaluate(stop)
            if stop.number is not None:
                self.world.on_main(self.output.writer.check)
                return self._result("interrupted", signal=stop.number)
            if ends:
                return self._result("finished")
            self._advance(stop)

    def _advance(self, stop: StopRequest) -> None:
        self.doing = f"training step {self.step + 1}"
        started = time.perf_counter()
        progress = self.plan.progress(self.step, self.clock.agreed, self.run.batch_size)
        rate = learning_rate(self.optim, progress, self.plan.warmup)
        *flags, clock = self.train_step(progress, rate, [*stop.flags(), self.clock.signal()])
        self.step, self.data = self.step + 1, self.loader.state_dict()
        self.train_step.settled()
        counted = time.perf_counter()
        self.clock.after_step(counted - started, clock)
        stop.adopt(flags)
        due = self.step % self.run.log_every == 0 or self.plan.ends(self.step, self.clock.agreed)
        means = self.window.close() if due else None
        self.auto_checkpointing.after_step(check=due)
        self.clock.add(time.perf_counter() - counted)
        self.doing = f"the log of step {self.step}"
        if means is not None:
            self.reporter.training(self.step, rate, means, self.clock.seconds)
            self.report_bad_samples()
        self.reporter.advance()

    def report_bad_samples(self) -> None:
        found = [(source, reason, f"step {step}") for source, reason, step in self.train_step.bad]
        self.train_step.bad = []
        if self.evaluator is not None:
            found += self.evaluator.bad
            self.evaluator.bad = []
        self.reporter.bad_samples(found)

    def _evaluate(self, stop: StopRequest) -> None:
        assert self.evaluator is not None
        self.doing = f"the evaluation after step {self.step}"
        alone = self.world.size == 1  # several processes would have to agree before each batch
        try:
            with self.parallel.unsharded() as model:
                scores = self.evaluator(model, self.step, lambda: alone and stop.received is not None)
        except Interrupted:
            stop.adopt(stop.flags())
            return
        self.auto_checkpointing.after_evaluation()
        self.reporter.evaluation(self.step, scores)
        self.report_bad_samples()
        self.best.update(self.step, scores)
        self.evaluated, self.scores, self.clock.evaluated = self.step, scores, self.clock.agreed
        self.outdated = True
        self.save()

    def _end_by(self, error: BaseException) -> NoReturn:
        """Save if possible, and raise ``error`` with a note of what is saved."""
        doing, kept = self.doing, self._rescue(error)
        if isinstance(error, VlkitError):
            if doing != SAVING:  # an error of saving says itself what is left
                error.add(kept)
            raise error
        lost = self.world.size > 1 and is_communication_error(error)
        if not isinstance(error, Exception) or lost:  # the caller explains it
            logger.warning("%s", kept)
            raise error
        what = f"{doing} failed: {type(error).__name__}: {error} ({_location(error)})."
        raise RunFailed(f"{what} {kept} VLKIT_TRACEBACK=1 shows more.") from error

    def _rescue(self, error: BaseException) -> str:
        """Write a checkpoint of the last complete step where that is safe; return a sentence on what is saved now."""
        if self._may_rescue():
            if isinstance(error, torch.OutOfMemoryError):
                traceback.clear_frames(error.__traceback__)
            if isinstance(error, KeyboardInterrupt):
                logger.warning("saving step %d; another Ctrl-C ends it without.", self.step)
            try:
                with self.world.saving():
                    self.save_alone()
            except Exception as failure:
                logger.warning("step %d could not be saved: %s", self.step, failure)
        if self.saved is None:
            return "No checkpoint was written yet: nothing is lost but the steps of this call."
        path = self.checkpoints.path(self.saved)
        kept = f"Step {self.saved} is saved in {path}"
        kept += "." if self.saved == self.step else f"; the {self.step - self.saved} steps after it are lost."
        return f"{kept} Correct the cause and start the same command again: it continues from there."

    def _may_rescue(self) -> bool:
        if self.doing == SAVING or self.step == 0 or self.saved == self.step or not self.world.is_main:
            return False
        return self.train_step.intact() and (self.world.size == 1 or self.parallel.whole_in_each)

    def _result(self, status: str, **more: Any) -> dict[str, Any]:
        best = None
        if self.best.step is not None:
            best = {
                "monitor": self.best.monitor,
                "step": self.best.step,
                "value": self.best.value,
                "checkpoint": str(self.checkpoints.path(self.best.step)),
            }
        return {
            "status": status,
            **self.reporter.position(self.step),
            "length": str(self.run.length),
            "metrics": self.scores,
            "best": best,
            "checkpoint": str(self.checkpoints.path(self.step)),
            "seconds": round(self.clock.seconds, 3),
            "bad_samples": self.reporter.ledger.count,
            **({"history": self.history} if self.history else {}),
            **more,
        }


def _location(error: BaseException) -> str:
    """Return file and line where an error was raised; for an installed library, where it was called."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not {"site-packages", "dist-packages"} & set(Path(frame.filename).parts)]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
