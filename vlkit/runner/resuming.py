"""Save the state of a training run in checkpoints, and resume from them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from typing import Any

import torch
from torch import Tensor

from vlkit.config.old_keys import with_current_keys
from vlkit.config.schema import OptimConfig, RunOptions
from vlkit.datasets.loading import TrainLoader
from vlkit.datasets.mixture import Mixture
from vlkit.errors import CheckpointError
from vlkit.io.checkpoint_files import STATE, read_trainer
from vlkit.io.disk_errors import FileError
from vlkit.runner.checkpoint import Best, Checkpoints, restore
from vlkit.runner.config_changes import changes, plain
from vlkit.runner.context import RunContext
from vlkit.runner.evaluation import Evaluator
from vlkit.runner.log import MetricWindow
from vlkit.runner.parallel import Parallel
from vlkit.runner.plan import Clock, Plan
from vlkit.runner.reporter import Reporter

logger = logging.getLogger(__name__)
State = dict[str, Any]
SAVING = "saving"
"""What a run is ``doing`` while it writes a checkpoint."""


class Resumable:
    """State of a training run. The subclass :class:`~vlkit.runner.trainer.Trainer` builds the optimizer and trains.

    Args:
        parallel: the model.
        mixture: training data.
        evaluator: scores during training, or None.
        optim, run: the sections.
        context: of the run.

    Attributes:
        step: optimizer steps done.
        data: position in the data after them.
        saved: step of the newest checkpoint, or None.
        outdated: whether scores or the best of that step have changed since it was written.
        evaluated: step of the last complete evaluation, or None; ``scores`` are its scores.
        doing: what the run does, for messages.
        history: one entry each time the run was resumed with another length or optimizer: ``step`` and ``changed``.
    """

    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        parallel: Parallel,
        mixture: Mixture,
        evaluator: Evaluator | None,
        optim: OptimConfig,
        run: RunOptions,
        context: RunContext,
    ):
        self.parallel, self.model = parallel, parallel.model
        self.evaluator, self.optim, self.run = evaluator, optim, run
        self.context, self.world, self.output = context, context.world, context.output
        self.plan = Plan.resolve(optim, run, len(mixture))
        self.loader = TrainLoader(
            mixture,
            run.batch_size,
            run.grad_accum_steps,
            self.world.rank,
            self.world.size,
            run.num_workers,
            pin_memory=context.device.type == "cuda",
        )
        self.window, self.clock = MetricWindow(self.world), Clock(self.world)
        self.best = Best(run.monitor, run.mode)
        self.checkpoints = Checkpoints(self.output.path / "checkpoints", run.keep_checkpoints)
        self.reporter = Reporter(context, self.plan, run)
        self.fingerprints = mixture.fingerprints()
        self.step = 0
        self.data: State = {}
        self.saved: int | None = None
        self.outdated = False
        self.evaluated: int | None = None
        self.scores: dict[str, float] = {}
        self.history: list[State] = []
        self.doing = ""

    def save(self) -> None:
        """Write a checkpoint of this step unless it exists. A collective."""
        if self.saved == self.step and not self.outdated:
            return
        self.doing = f"the log of step {self.step}"
        self.window.settle()
        self.report_bad_samples()
        if self.world.is_main:
            self.reporter.metrics.sync()
        self.doing = SAVING
        if self.saved == self.step and self.world.on_main(self._renew_checkpoint):
            self.outdated = False
            return
        weights, optimizer_state = self._tensors()
        gone = self.world.on_main(lambda: self._write_checkpoint(weights, optimizer_state))
        self.saved, self.outdated, self.clock.saved = self.step, False, self.clock.agreed
        if gone:
            raise FileError(
                f"{self.output.path} was removed while the run wrote there. Step {self.step} is saved in it again; the "
                "same command continues from there."
            )

    def save_alone(self) -> None:
        """Write a checkpoint of this step in process 0 when the others can no longer be reached.

        Raises:
            VlkitError: it cannot be written, or the weights are not finite.
        """
        if self.world.size == 1:
            self.window.settle()
        with contextlib.suppress(OSError):  # the log may be what failed
            self.reporter.metrics.sync()
        self._write_checkpoint(*self._tensors())
        self.saved = self.step

    def report_bad_samples(self) -> None:
        """Enter unusable samples into the ledger. A collective."""
        raise NotImplementedError

    def evaluation_due(self) -> bool:
        """Return whether to evaluate after this step."""
        if self.evaluator is None:
            return False
        due = self.plan.eval_every.due(self.step, self.clock.agreed - self.clock.evaluated)
        return due or self.plan.ends(self.step, self.clock.agreed)

    def resume(self) -> None:
        """Load the newest sound checkpoint, if there is one. A collective."""
        self.data = self.loader.state_dict()
        found = self.world.on_main(self._find)
        if found is None:
            return
        step, best_lost = found
        path = self.checkpoints.path(step)
        trainer = restore(path, self.model, self.optimizer)
        if trainer["batch_size"] != self.run.batch_size or trainer["seed"] != self.run.seed:
            raise CheckpointError(
                f"{path} was written with batch_size {trainer['batch_size']} and seed {trainer['seed']}; "
                f"this run has {self.run.batch_size} and {self.run.seed}. Restore them, or choose another "
                "run.output_dir."
            )
        if trainer["fingerprints"] != self.fingerprints:
            logger.warning("%s: the training data have changed since; the run continues with those of today.", path)
        self.loader.load_state_dict(trainer["data"])
        self._load_state(trainer)
        if best_lost:
            self.best.step = self.best.value = None
        self.outdated = self.best.state_dict() != trainer["best"]
        logger.info("continuing from %s", path)
        for change in self.history[-1]["changed"] if self.history and self.history[-1]["step"] == step else ():
            logger.info("from step %d on: %s", step, change)

    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.parallel.weights(), self.parallel.optimizer_state(self.optimizer)

    def _write_checkpoint(self, weights: dict[str, Tensor], optimizer_state: dict[str, Tensor]) -> bool:
        """Write the checkpoint; return whether the output folder had been removed."""
        self.output.writer.check()
        gone = self.output.is_gone
        self.checkpoints.write(weights, optimizer_state, self._state())
        if gone:
            self.output.record()
        self.checkpoints.prune(self.step, self.best.step)
        return gone

    def _renew_checkpoint(self) -> bool:
        """Update scores and the best in the checkpoint of this step, whose tensors stay; False: it does not exist."""
        self.output.writer.check()
        if self.output.is_gone or not self.checkpoints.renew(self._state()):
            return False
        self.checkpoints.prune(self.step, self.best.step)
        return True

    def _state(self) -> State:
        """Return the content of ``trainer.json``."""
        return {
            "step": self.step,
            "seed": self.run.seed,
            "seconds": self.clock.seconds,
            "clock": self.clock.state_dict(),
            "data": self.data,
            "fingerprints": self.fingerprints,
            "window": self.window.state_dict(),
            "report": self.reporter.state_dict(),
            "best": self.best.state_dict(),
            "evaluated": {"step": self.evaluated, "scores": self.scores, "sets": self.output.evaluation_hashes},
            "batch_size": self.run.batch_size,
            "config_hash": self.output.config_hash,
            "settings": self._settings(),
            "history": self.history,
        }

    def _settings(self) -> State:
        """Return the settings that may change when a run is resumed and affect how it trains."""
        return {
            "length": str(self.run.length),
            "grad_accum_steps": self.run.grad_accum_steps,
            "optim": plain(dataclasses.asdict(self.optim)),
        }

    def _find(self) -> tuple[int, bool] | None:
        """Find the newest sound checkpoint and cut the log back to it; return its step and whether the best is lost."""
        self.checkpoints.sweep()
        newest = self.checkpoints.newest(STATE)
        if newest is None:
            if self.output.begun:
                logger.warning(
                    "%s holds an unfinished run without a usable checkpoint: it starts again from step 0.",
                    self.output.path,
                )
            self.reporter.metrics.cut_back(0, evaluated=False)
            return None
        trainer = read_trainer(newest)
        length = str(self.run.length)
        before = trainer.get("settings", {}).get("length", length)
        self.plan.check_length(trainer["step"], trainer["seconds"], before, length)
        self._load_state(trainer)
        best = self.best.step
        lost = self.checkpoints.problem(best) if best is not None and best != self.step else ""
        steps = self.checkpoints.steps()
        if lost and best not in steps and steps[-1] != self.step:
            logger.info("the best so far was deleted for a later one: the best is chosen again, from here on.")
        elif lost:
            logger.warning("%s It was the best so far: the best is chosen again, from here on.", lost)
        self.reporter.metrics.cut_back(self.step, evaluated=self.evaluated == self.step or not self.evaluation_due())
        self.reporter.write_missing_line()
        return self.step, bool(lost)

    def _load_state(self, trainer: State) -> None:
        """Load everything but weights, optimizer and data; :meth:`_find` does so to see what they would be."""
        self.step = self.saved = trainer["step"]
        self.data = trainer["data"]
        self.clock.load_state_dict(trainer.get("clock", {"seconds": trainer["seconds"]}))
        self.window.load_state_dict(trainer["window"])
        self.reporter.load_state_dict(trainer["report"])
        self.history = list(trainer.get("history", ()))
        changed = changes(with_current_keys(trainer).get("settings", self._settings()), self._settings())
        if changed:
            self.history.append({"step": self.step, "changed": changed})
        self._load_scores(trainer)

    def _load_scores(self, trainer: State) -> None:
        """Load scores and the best one, where evaluation sets, task and monitor are unchanged."""
        found, now = trainer["evaluated"], self.output.evaluation_hashes
        before = found.get("sets", now)
        monitored = (self.best.monitor or "").partition("/")[0]
        if before.get(monitored) == now.get(monitored):
            self.best.load_state_dict(trainer["best"])
        if self.best.step is None and trainer["best"]["step"] is not None and self.best.monitor is not None:
            logger.info("the best score so far was of another evaluation or monitor: the best is chosen again.")
        known = self.best.monitor is None or self.best.monitor in found["scores"]
        if before == now and known:
            self.evaluated, self.scores = found["step"], found["scores"]
            if self.evaluated is not None and self.best.step is None:  # another score is monitored now
                self.best.update(self.evaluated, self.scores)
