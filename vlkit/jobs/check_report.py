"""The result of ``vlkit check``: sizes, memory, length of a run, and how they are printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vlkit.datasets.media import MediaCheck
from vlkit.runner.plan import Plan


@dataclass
class Memory:
    """Bytes that one process needs for training.

    Args:
        weights: parameters and buffers.
        gradients: of the trained parameters.
        optimizer_state: of AdamW.
        activations: kept for the backward pass of a micro-batch, scaled from a smaller one; with
            ``run.activation_checkpointing: auto`` the most that may be kept.
        measured_on, scaled_to: samples of the two batches.
    """

    weights: int
    gradients: int
    optimizer_state: int
    activations: int
    measured_on: int
    scaled_to: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimizer_state + self.activations

    def __str__(self) -> str:
        return (
            f"about {human(self.total)} a process: weights {human(self.weights)}, gradients {human(self.gradients)}, "
            f"AdamW {human(self.optimizer_state)}, activations {human(self.activations)} (estimated: what autograd "
            f"keeps of {self.measured_on} samples, scaled to {self.scaled_to})"
        )


@dataclass
class CheckReport:
    """What the check of a run found.

    Args:
        model: name, with the type of its card.
        weights: source of the initial weights.
        parameters, trained: numbers of all and of trained parameters.
        sizes: samples of each dataset, by key path.
        checkpoint, free: bytes of a checkpoint and of free disk space.
        losses: of the first batch.
        scores: of one small batch of each evaluation set.
        plan: lengths in steps; None: no training.
        memory: None: no training.
        notes: remarks on what may be intended.
        media: how many images or videos of each dataset were decoded, by key path.
    """

    model: str
    weights: str
    parameters: int
    trained: int
    sizes: dict[str, int]
    checkpoint: int
    free: int
    losses: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    plan: Plan | None = None
    memory: Memory | None = None
    notes: list[str] = field(default_factory=list)
    media: dict[str, MediaCheck] = field(default_factory=dict)

    def lines(self) -> list[tuple[str, str]]:
        """Return title and text of each line."""
        sizes = ", ".join(f"{key.removeprefix('datasets.')}: {size:,}" for key, size in self.sizes.items())
        lines = [
            ("model", f"{self.model}: {self.parameters:,} parameters, {self.trained:,} of them trained"),
            ("weights", self.weights),
            ("data", sizes),
        ]
        if self.media:
            lines.append(("images", _decoded(self.media)))
        if self.memory is not None and self.plan is not None:
            lines += [
                ("first batch", ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())),
                ("length", _length(self.plan)),
                ("memory", str(self.memory)),
                ("disk", f"{human(self.checkpoint)} a checkpoint, {human(self.free)} free"),
            ]
        if self.scores:
            lines.append(("evaluation", "gives " + ", ".join(self.scores)))
        return [*lines, *(("note", note) for note in self.notes)]


def human(count: float) -> str:
    """Format a number of bytes: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _length(plan: Plan) -> str:
    epochs = f"epochs of {plan.steps_per_epoch:,.1f} steps"
    if plan.steps is None:
        return f"{plan.seconds:,.0f} s of training steps, in {epochs}"
    return f"{plan.steps:,} steps, {plan.steps / plan.steps_per_epoch:.3g} {epochs}"


def _decoded(media: Mapping[str, MediaCheck]) -> str:
    texts = []
    for key, check in media.items():
        unusable = f" ({len(check.problems):,} cannot be used)" if check.problems else ""
        texts.append(f"{key.removeprefix('datasets.')}: {check.summary()}{unusable}")
    some = any(check.decoded < check.count for check in media.values())
    return ", ".join(texts) + ("; --images all decodes every one" if some else "")
