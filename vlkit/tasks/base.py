"""Base class of tasks: batches to losses, and a model to scores. The runner depends on this module alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlkit.contracts import GenerationConfig
from vlkit.errors import DataError
from vlkit.io.files import atomic_write

Batch = dict[str, Any]
Row = dict[str, Any]
"""Results of one sample, picklable."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run in several units.

    Args:
        step: optimizer steps done before this one.
        steps: optimizer steps of the whole run; estimated if the run's length is a time.
        steps_per_epoch: optimizer steps of one epoch (may be fractional).
        samples: samples seen before this step, by all processes.
        micro: index of the micro-batch within this step, from 0; work that is done once a step is done at 0.
        micros: micro-batches of a step.
    """

    step: int
    steps: int
    steps_per_epoch: float
    samples: int
    micro: int = 0
    micros: int = 1

    @property
    def epoch(self) -> float:
        """Epochs done before this step, with the fraction."""
        return self.step / self.steps_per_epoch


@dataclass
class StepOutput:
    """Losses and metrics of one micro-batch.

    Args:
        losses: name to scalar, each a mean; their sum is minimized.
        metrics: name to scalar (detached tensor or number) for the log.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)


def _gather_one_process(items: Sequence[Any]) -> list[Any]:
    return list(items)


@dataclass
class EvalContext:
    """Environment of an evaluation, given by the runner.

    Args:
        device: of the model.
        autocast: creates the context manager of the run's precision.
        gather: concatenates the lists of all processes in rank order, for every process. Items must be picklable. Each
            sample is read by exactly one process.
        rank: of this process; rank 0 writes result files.
        output_dir: directory of result files; None: write none.
        name: name of the evaluation set ("val").
        step: optimizer steps done.
        dataset: the evaluation set, for attributes of the whole set (a list of answers); its samples come in batches.
    """

    device: torch.device
    autocast: Callable[[], Any]
    gather: Callable[[Sequence[Any]], list[Any]] = _gather_one_process
    rank: int = 0
    output_dir: Path | None = None
    name: str = "val"
    step: int = 0
    dataset: Any = None

    def gather_rows(self, own: Sequence[Row]) -> list[Row]:
        """Return the rows of all processes, sorted by ``index``.

        Raises:
            DataError: there are none.
        """
        rows = sorted(self.gather(own), key=lambda row: row["index"])
        if not rows:
            raise DataError(f"evaluation set {self.name!r}: none of its samples could be used.")
        return rows

    @property
    def writes(self) -> bool:
        """Whether this process writes result files."""
        return self.rank == 0 and self.output_dir is not None

    def write_json(self, kind: str, results: Any, **options: Any) -> None:
        """Write ``<kind>_<set>.json`` if this process writes result files; ``options`` go to ``json.dump``."""
        if self.rank == 0 and self.output_dir is not None:
            with atomic_write(self.output_dir / f"{kind}_{self.name}.json", "w") as file:
                json.dump(results, file, **options)


class Task:
    """A training and evaluation protocol. Subclasses hold no state of a run.

    Attributes:
        evaluation_keys: constructor arguments that change evaluation and decoding alone. A run may be resumed with
            other values of these; every other argument is assumed to change training.
    """

    evaluation_keys: ClassVar[Collection[str]] = ()

    def prepare(self, model: nn.Module, batch: Batch, device: torch.device) -> Batch:
        """Return the model's inputs of a collated batch: tokenize, move to ``device``. Runs outside of autocast.
        Must not change the batch."""
        raise TypeError(f"{type(self).__name__} does not define prepare()")

    def counts(self, inputs: Batch) -> dict[str, float]:
        """Return the number of items that each mean loss is over (target tokens, say), known before the forward pass.
        The runner weights by it, so that the loss does not depend on how the global batch is split into micro-batches
        and processes. A loss without an entry counts samples."""
        return {}

    def train_step(self, model: nn.Module, inputs: Batch, progress: Progress) -> StepOutput:
        """Return the losses of one micro-batch. ``model`` may be wrapped (DDP): only call it."""
        raise TypeError(f"{type(self).__name__} does not define train_step()")

    def evaluate(self, model: nn.Module, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        """Return the scores of an evaluation set. Called under ``torch.inference_mode()`` with the model in eval mode.
        ``loader`` yields this process's share of the batches; every process must return the same scores."""
        raise TypeError(f"{type(self).__name__} does not define evaluate()")

    def describe(self, model: nn.Module, batch: Batch, context: EvalContext) -> list[str]:
        """Return one text for each sample of ``batch`` for the sample grid: the model's output."""
        return []


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of ``batch`` with its tensors on ``device``."""
    moved = {}
    for key, value in batch.items():
        moved[key] = value.to(device, non_blocking=True) if torch.is_tensor(value) else value
    return moved


def image_text_inputs(model: Any, batch: Batch, device: torch.device) -> Batch:
    """Return ``image`` [B, 3, S, S] and packed ``texts`` on ``device``, and ``targets``, the number of tokens that the
    LM loss predicts."""
    texts = model.tokenize(batch["text_input"])
    return to_device({"image": batch["image"], "texts": texts, "targets": model.target_count(texts)}, device)


def best_captions(model: Any, batch: Batch, config: GenerationConfig, context: EvalContext) -> list[str]:
    """Return the model's best caption of each image of ``batch``."""
    with context.autocast():
        captions = model.caption({"image": batch["image"].to(context.device)}, config)
    return [texts[0] for texts in captions.texts]


def alpha_ramp(alpha: float, epoch: float, ramp_epochs: float) -> float:
    """Return the weight of the momentum model's soft targets, which rises linearly from 0 to ``alpha``.

    Args:
        alpha: final weight, 0 to 1.
        epoch: epochs done, with the fraction (``Progress.epoch``).
        ramp_epochs: length of the rise in epochs (pre-training 2, retrieval 1); 0: ``alpha`` from the start.
    """
    return alpha if epoch >= ramp_epochs else alpha * epoch / ramp_epochs
