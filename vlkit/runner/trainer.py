"""A training run from its first or last step to its end."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import Tensor

from vlkit.checkpoint_files import STATE, read_trainer
from vlkit.config.schema import OptimConfig, RunOptions
from vlkit.datasets.loading import TrainLoader
from vlkit.datasets.mixture import Mixture
from vlkit.errors import CheckpointError, ConfigError
from vlkit.modes import start_training
from vlkit.runner.activation_checkpointing import ByNeed
from vlkit.runner.activation_memory import device_memory
from vlkit.runner.best import Best
from vlkit.runner.checkpoint import Checkpoints, restore
from vlkit.runner.device import autocast
from vlkit.runner.distributed import World
from vlkit.runner.evaluation import Evaluator, Interrupted
from vlkit.runner.loop import TrainStep
from vlkit.runner.output import OutputFolder
from vlkit.runner.parallel import Parallel
from vlkit.runner.plan import Plan
from vlkit.runner.reporter import Reporter
from vlkit.runner.schedules import learning_rate
from vlkit.runner.signals import StopRequest
from vlkit.runner.window import NonFinite, Window
from vlkit.tasks.base import Progress, Task

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a model; see :class:`~vlkit.runner.runner.Runner`, which makes it.

    Args:
        parallel: the model, on its device, and how the processes share it.
        task: what a batch means.
        mixture: training data.
        evaluator: scores during training, or None.
        optim, run: the sections.
        world: the processes.
        device: where the model is.
        output: the folder.
    """

    def __init__(
        self,
        parallel: Parallel,
        task: Task,
        mixture: Mixture,
        evaluator: Evaluator | None,
        optim: OptimConfig,
        run: RunOptions,
        world: World,
        device: torch.device,
        output: OutputFolder,
    ):
        self.parallel, self.model = parallel, parallel.model
        self.evaluator, self.optim, self.run = evaluator, optim, run
        self.world, self.output = world, output
        self.plan = Plan.resolve(optim, run, len(mixture))
        self.loader = TrainLoader(
            mixture,
            run.batch_size,
            run.accumulate,
            world.rank,
            world.size,
            run.num_workers,
            pin_memory=device.type == "cuda",
        )
        memory = device_memory(device) if run.activation_checkpointing == "auto" else None
        self.by_need = ByNeed(self.model, memory, world, run.accumulate)
        wrapped = parallel.wrap()
        self.optimiser = parallel.optimiser(optim)
        self.window = Window(world)
        self.best = Best(run.monitor, run.mode)
        self.checkpoints = Checkpoints(output.path / "checkpoints", run.keep_checkpoints)
        self.reporter = Reporter(output, self.plan, run, world)
        self.fingerprints = mixture.fingerprints()
        self.step, self.seconds, self._rate = 0, 0.0, 0.0
        self._saved: int | None = None
        self._evaluated: int | None = None
        self._scores: dict[str, float] = {}
        self.train_step = TrainStep(
            parallel,
            wrapped,
            task,
            self.loader,
            self.optimiser,
            self.window,
            world,
            device,
            autocast(device, run.precision),
            run.seed,
            optim.grad_clip,
        )

    def train(self, stop: StopRequest) -> dict[str, Any]:
        """Run until the end, or until ``stop``.

        Returns:
            What happened: ``status`` (finished or interrupted), ``step``, ``metrics``, ``best`` and more.

        Raises:
            NonFinite: a loss is no longer a number; ``nonfinite.json`` names the samples.
        """
        self._resume()
        self.reporter.open(self.step)
        try:
            return self._loop(stop)
        except NonFinite as error:
            if self.world.is_main:
                found = {"step": error.step, "value": error.name, "sample_ids": error.sample_ids}
                self.output.write_json("nonfinite.json", found)
            raise
        finally:
            self.loader.close()
            self.reporter.close()

    def _loop(self, stop: StopRequest) -> dict[str, Any]:
        start_training(self.model)
        while True:
            if self.world.size == 1:
                stop.adopt(stop.flags())
            if stop.number is None:
                self._evaluate_if_due(stop)
            if stop.number is not None:
                self._save()
                return self._result("interrupted", signal=stop.number)
            if self.plan.due(self.step, self.plan.checkpoint_every):
                self._save()
            if self.step >= self.plan.steps:
                return self._result("finished")
            self._advance(stop)

    def _advance(self, stop: StopRequest) -> None:
        started = time.perf_counter()
        progress = Progress(self.step, self.plan.steps, self.plan.steps_per_epoch, self.step * self.run.batch_size)
        self._rate = learning_rate(self.optim, progress, self.plan.warmup)
        stop.adopt(self.train_step(progress, self._rate, stop.flags()))
        self.step += 1
        due = self.plan.due(self.step, self.run.log_every)
        means = self.window.close() if due else None
        self.by_need.after_step(look=due)
        self.seconds += time.perf_counter() - started
        if means is not None:
            self.reporter.training(self.step, self._rate, means, self.seconds)
            self._report_bad_samples()
        self.reporter.advance()

    def _report_bad_samples(self) -> None:
        found = [(source, reason, f"step {step}") for source, reason, step in self.train_step.bad]
        self.train_step.bad = []
        if self.evaluator is not None:
            found += self.evaluator.bad
            self.evaluator.bad = []
        self.reporter.bad_samples(found)

    def _evaluate_if_due(self, stop: StopRequest) -> None:
        if self.evaluator is None or self._evaluated == self.step:
            return
        if not self.plan.due(self.step, self.plan.eval_every):
            return
        self.window.settle()
        alone = self.world.size == 1  # several processes would have to agree before each batch
        try:
            with self.parallel.whole_model() as model:
                scores = self.evaluator(model, self.step, lambda: alone and stop.received is not None)
        except Interrupted:
            stop.adopt(stop.flags())
            return
        self.by_need.after_evaluation()
        self.reporter.evaluation(self.step, scores)
        self._report_bad_samples()
        try:
            better = self.best.update(self.step, scores)
        except ConfigError:  # run.monitor is wrong; what was trained until here must not be lost
            self._save()
            raise
        self._evaluated, self._scores = self.step, scores
        if better or self._saved == self.step:
            self._saved = None
            self._save()

    def _save(self) -> None:
        """Write a checkpoint of this step, if there is none yet."""
        if self._saved == self.step:
            return
        self.window.settle()
        self._report_bad_samples()
        weights, moments = self.parallel.weights(), self.parallel.moments(self.optimiser)
        self.world.on_main(lambda: self._write_checkpoint(weights, moments))
        self._saved = self.step

    def _write_checkpoint(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        self.reporter.metrics.sync()
        trainer = {
            "step": self.step,
            "seed": self.run.seed,
            "seconds": self.seconds,
            "data": self.loader.state_dict(),
            "fingerprints": self.fingerprints,
            "window": self.window.state_dict(),
            "report": self.reporter.state_dict(),
            "best": self.best.state_dict(),
            "evaluated": {"step": self._evaluated, "scores": self._scores},
            "batch_size": self.run.batch_size,
            "config_hash": self.output.config_hash,
        }
        self.checkpoints.write(weights, moments, trainer)
        self.checkpoints.prune(self.step, self.best.step)

    def _find(self) -> tuple[int, bool] | None:
        """Step of the newest sound checkpoint, and whether the best one is lost; the log is brought to its state."""
        self.checkpoints.sweep()
        newest = self.checkpoints.newest(STATE)
        if newest is None:
            self.reporter.metrics.cut_back(0, evaluated=False)
            return None
        trainer = read_trainer(newest)
        step, best = trainer["step"], trainer["best"]["step"]
        lost = self.checkpoints.problem(best) if best not in (None, step) else ""
        if lost:
            logger.warning("%s It was the best so far: the best is chosen again, from here on.", lost)
        self.reporter.metrics.cut_back(step, trainer["evaluated"]["step"] == step)
        return step, bool(lost)

    def _resume(self) -> None:
        """Go to the newest sound checkpoint, if there is one."""

        found = self.world.on_main(self._find)
        if found is None:
            return
        step, best_lost = found
        path = self.checkpoints.path(step)
        trainer = restore(path, self.model, self.optimiser)
        if trainer["batch_size"] != self.run.batch_size or trainer["seed"] != self.run.seed:
            raise CheckpointError(
                f"{path} was written with batch_size {trainer['batch_size']} and seed {trainer['seed']}; "
                f"this run has {self.run.batch_size} and {self.run.seed}. Restore them, or choose another "
                "run.output_dir."
            )
        if trainer["fingerprints"] != self.fingerprints:
            logger.warning("%s: the training data have changed since; the run goes on with those of today.", path)
        self.loader.load_state_dict(trainer["data"])
        self.window.load_state_dict(trainer["window"])
        if not best_lost:
            self.best.load_state_dict(trainer["best"])
        self.step = self._saved = trainer["step"]
        self.reporter.load_state_dict(trainer["report"])
        self.seconds = trainer["seconds"]
        self._evaluated, self._scores = trainer["evaluated"]["step"], trainer["evaluated"]["scores"]
        logger.info("continuing from %s", path)

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
            **self.reporter.place(self.step),
            "metrics": self._scores,
            "best": best,
            "checkpoint": str(self.checkpoints.path(self.step)),
            "seconds": round(self.seconds, 3),
            "bad_samples": self.reporter.ledger.count,
            **more,
        }
