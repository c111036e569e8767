"""The runner: one entry point for training and evaluation, on one device or in several processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vlkit.config.schema import OptimConfig, RunOptions
from vlkit.datasets.base import VLDataset
from vlkit.datasets.mixture import Mixture
from vlkit.errors import ConfigError, did_you_mean
from vlkit.runner.activation_checkpointing import checkpoint_activations
from vlkit.runner.checkpoint import check_finite
from vlkit.runner.context import RunContext, compile_model
from vlkit.runner.evaluation import Evaluator
from vlkit.runner.output import environment
from vlkit.runner.parallel import share_model
from vlkit.runner.plan import Plan
from vlkit.runner.reporter import draw_curves
from vlkit.runner.signals import StopRequest
from vlkit.runner.trainer import Trainer
from vlkit.tasks.base import Task

logger = logging.getLogger(__name__)


class Runner:
    """Train and evaluate a model with a task on datasets, by their contracts alone.

    Started by ``torchrun``, it is one of several processes. Use it in a ``with`` statement, or call :meth:`close`.

    Args:
        model: the same in every process. ``checkpoint_blocks()`` lists its modules for activation checkpointing; if its
            ``find_unused_parameters`` is true, a step may leave parameters out.
        task: turns batches into losses and scores.
        train: training data, a mixture or one or more datasets weighted by size; None: only evaluate.
        evals: evaluation sets by name.
        optim, run: the sections of the run file.
        context: processes, device and output folder; None: created from ``run``. The runner leaves the processes when
            it is closed.

    Raises:
        ConfigError: options that do not fit together or this machine.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        train: Mixture | Sequence[VLDataset] | None,
        evals: Mapping[str, VLDataset],
        optim: OptimConfig,
        run: RunOptions,
        context: RunContext | None = None,
    ):
        _check_monitor(run.monitor, evals)
        self.context = context or RunContext.of(run)
        self.world, self.device, self.output = self.context.world, self.context.device, self.context.output
        self.world.start(self.device)
        self.model, self.task, self.optim, self.run = model.to(self.device), task, optim, run
        self.mixture = train if train is None or isinstance(train, Mixture) else Mixture(train, seed=run.seed)
        self.evals = dict(evals)
        with self.world.explained():
            self.parallel = share_model(run.parallel, self.model, self.world, self.device)
        if run.compile:
            for each in self.parallel.models:
                compile_model(each, self.device)
        size = run.eval_batch_size or max(1, run.batch_size // (run.grad_accum_steps * self.world.size))
        self.evaluator = Evaluator(task, self.evals, size, self.context, run.num_workers) if self.evals else None

    def train(self) -> dict[str, Any]:
        """Train to the end, resuming where an earlier call in the same folder stopped. A finished run resumes when its
        length was raised, or when its evaluation was changed.

        Returns:
            ``status`` ("finished", or "interrupted" with ``signal``), ``step``, ``epoch``, ``samples``,
            ``metrics`` (of the last evaluation), ``best``, ``checkpoint``, ``seconds``, ``bad_samples``. That of a
            finished run is ``result.json``, which a further call returns.

        Raises:
            ConfigError: there is no training data, or the folder belongs to another run.
            CheckpointError: the checkpoint does not fit, or the initial weights hold NaN.
            NonFinite: a loss is NaN or infinite.
            VlkitError: another failure; it says what is saved and how to resume.
        """
        if self.mixture is None:
            raise ConfigError("there is nothing to train on: name a dataset under 'datasets.train'.")
        try:
            with self.world.explained():
                return self._train(self.mixture)
        finally:
            self.output.release()

    def _train(self, mixture: Mixture) -> dict[str, Any]:
        stored = self.world.on_main(lambda: self._claim(mixture))
        if stored is not None:
            logger.info("%s: this run is finished; its result is given again.", self.output.path)
            return stored
        check_finite(self.model)
        self._record_environment("environment.json")
        checkpoint_activations(self.model, self.run.activation_checkpointing)
        trainer = Trainer(self.parallel, self.task, mixture, self.evaluator, self.optim, self.run, self.context)
        with StopRequest() as stop:
            self.output.writer.on_lost = stop.ask
            result = trainer.train(stop)
        if result["status"] == "finished":
            with trainer.guarded("drawing samples.png"):
                self._draw_samples(trainer.step)
            with trainer.guarded("writing the result"):
                self.world.on_main(lambda: self._finish(result))
        return result

    def evaluate(self, step: int = 0) -> dict[str, float]:
        """Return the scores of the model under ``<set>/<score>``, and write them to ``evaluation.json``.

        Args:
            step: optimizer steps that the model has had, for the record.

        Raises:
            ConfigError: there is no evaluation set.
            CheckpointError: the weights hold NaN or infinity.
        """
        if self.evaluator is None:
            raise ConfigError("there is nothing to evaluate on: name a dataset under 'datasets.eval'.")
        check_finite(self.model)
        with self.world.explained():
            return self._evaluate(self.evaluator, step)

    def _evaluate(self, evaluator: Evaluator, step: int) -> dict[str, float]:
        self._record_environment("evaluation_environment.json")
        with self.parallel.unsharded() as model:
            scores = evaluator(model, step)
        bad = [{"source": s, "reason": r, "where": w} for s, r, w in self.world.gather(evaluator.bad)]
        content = {"step": step, "metrics": scores, "bad_samples": bad}
        self.world.on_main(lambda: self.output.write_json("evaluation.json", content))
        self._draw_samples(step)
        return scores

    def close(self) -> None:
        """Leave the other processes."""
        self.world.finish()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:  # after an error the others may be gone, and leaving in order would wait for them
            self.close()

    def _claim(self, mixture: Mixture) -> dict[str, Any] | None:
        """Claim the output folder; return the result of a finished run, unless another length is wanted."""
        before, length = self.output.result(), str(self.run.length)
        if before is not None:
            plan = Plan.resolve(self.optim, self.run, len(mixture))
            plan.check_length(before["step"], float(before.get("seconds", 0.0)), before.get("length", ""), length)
        stored = self.output.claim()
        if stored is None or stored.get("length", length) == length:
            return stored
        self.output.hold()
        self.output.reopen(stored)
        return None

    def _finish(self, result: dict[str, Any]) -> None:
        self.output.write_json("result.json", result)
        draw_curves(self.output.path / "metrics.jsonl", self.output.path / "curves.png")

    def _record_environment(self, name: str) -> None:
        def record() -> None:
            data = {
                "train": self.mixture.fingerprints() if self.mixture else [],
                "eval": {name: dataset.fingerprint() for name, dataset in self.evals.items()},
            }
            found = environment(self.device, self.world.size, {"data": data, **self.output.facts})
            self.output.write_json(name, found)

        self.world.on_main(record)

    def _draw_samples(self, step: int) -> None:
        evaluator = self.evaluator
        if evaluator is None or not self.run.sample_images:
            return
        name = (self.run.monitor or next(iter(self.evals))).partition("/")[0]
        with self.parallel.unsharded() as model:
            self.world.on_main(lambda: evaluator.draw_samples(model, self.run.sample_images, name, step))


def _check_monitor(monitor: str | None, evals: Mapping[str, VLDataset]) -> None:
    if monitor is not None and monitor.partition("/")[0] not in evals:
        raise ConfigError(
            f"run.monitor is {monitor!r}, but no evaluation set has that name."
            f"{did_you_mean(monitor.partition('/')[0], evals)} Sets: {', '.join(evals) or 'none'}."
        )
