"""What every task is: how a batch becomes losses, and how a model becomes scores. The runner sees only this."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vlkit.contracts import GenerationConfig

Batch = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Where a run is, in every unit.

    Args:
        step: optimizer steps done before this one.
        steps: optimizer steps of the whole run; of a run whose length is a time, an estimate from the time spent.
        steps_per_epoch: optimizer steps of one pass over the training data (may be fractional).
        samples: samples seen before this step, by all processes.
        micro: index of the micro-batch within this step, from 0: what belongs to a step once belongs to 0.
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
        """Passes over the data done before this step, with the fraction."""
        return self.step / self.steps_per_epoch


@dataclass
class StepOutput:
    """What one micro-batch gives.

    Args:
        losses: name to scalar, each a mean over something; their sum is minimized.
        metrics: name to scalar (detached tensor or number) for the log.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)


def _gather_one_process(items: Sequence[Any]) -> list[Any]:
    return list(items)


@dataclass
class EvalContext:
    """What the runner lends a task while it evaluates.

    Args:
        device: where the model is.
        autocast: makes the context manager of the run's precision.
        gather: joins the lists of all processes in rank order; every process gets the whole list. Items must be
            picklable. Each sample is read by exactly one process.
        rank: this process; result files are written by rank 0.
        output_dir: where result files go, or None: write none.
        name: name of the evaluation set ("val").
        step: optimizer steps done.
        dataset: the evaluation set, for what belongs to all of it (a list of answers); its samples come in batches.
    """

    device: torch.device
    autocast: Callable[[], Any]
    gather: Callable[[Sequence[Any]], list[Any]] = _gather_one_process
    rank: int = 0
    output_dir: Path | None = None
    name: str = "val"
    step: int = 0
    dataset: Any = None


class Task:
    """A protocol of training and evaluation. Subclasses say what a batch means; they hold no state of a run.

    Attributes:
        evaluation_keys: constructor arguments that change evaluation and decoding alone. A run may be continued with
            other values of these; every other argument is taken to change what is trained.
    """

    evaluation_keys: ClassVar[Collection[str]] = ()

    def prepare(self, model: nn.Module, batch: Batch, device: torch.device) -> Batch:
        """Model inputs from a collated batch: tokenize, move to ``device``. Runs before autocast. The batch itself is
        not changed."""
        raise TypeError(f"{type(self).__name__} does not define prepare()")

    def counts(self, inputs: Batch) -> dict[str, float]:
        """Number of items behind each mean loss (target tokens, say), known before the forward pass. The runner weighs
        by it, so that such a loss does not depend on how its global batch is divided among micro-batches and processes.
        A loss not named here counts samples."""
        return {}

    def train_step(self, model: nn.Module, inputs: Batch, progress: Progress) -> StepOutput:
        """Losses of one micro-batch. ``model`` may be wrapped (DDP): call it, do not reach inside."""
        raise TypeError(f"{type(self).__name__} does not define train_step()")

    def evaluate(self, model: nn.Module, loader: Iterable[Batch], context: EvalContext) -> dict[str, float]:
        """Scores on an evaluation set; called under ``torch.inference_mode()`` with the model in eval mode. ``loader``
        yields this process's share of the batches; every process must return the same scores."""
        raise TypeError(f"{type(self).__name__} does not define evaluate()")

    def describe(self, model: nn.Module, batch: Batch, context: EvalContext) -> list[str]:
        """One text per sample of ``batch`` for the picture of samples: what the model says of it."""
        return []


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A copy of ``batch`` whose tensors are on ``device``."""
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
