"""What became of the tensors of a checkpoint, and why one does not fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from vlkit.models.weights.names import QUEUES, describe

logger = logging.getLogger(__name__)
_EXAMPLES = 3


@dataclass
class LoadReport:
    """What became of the tensors of a checkpoint.

    Args:
        source: where they came from.
        loaded: number of the model's tensors that the file gave.
        missing: the model's names that it did not give; they keep their values.
        unexpected: names in it that the model does not have.
        resized: position embeddings that were interpolated to the model's grid.
        ignored: names in it that the model does not have, as expected of this kind of file.
        filled: momentum encoders that the file did not hold, copied from their encoders.
    """

    source: str
    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        parts = [
            f"{len(names)} {word} ({some(names)})"
            for word in ("missing", "unexpected", "resized", "ignored", "filled")
            if (names := getattr(self, word))
        ]
        return "; ".join([f"{self.source}: {self.loaded} tensors loaded", *parts])

    def log(self) -> None:
        """Log :meth:`summary`, as a warning where the model must be trained before it is of use."""
        random = [name for name in self.missing if name not in (*QUEUES, "temp")]
        if random:
            logger.warning("%s. What is missing is initialized at random: train it first.", self.summary())
        else:
            logger.info("%s", self.summary())


def explain(
    model: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    label: str,
    misfits: Mapping[str, str],
    missing: list[str],
    unexpected: list[str],
) -> str:
    """Why a checkpoint is not the model's: what is in it, what the model needs, what to do.

    Args:
        model: that was to be filled.
        own: its tensors by name.
        state: those of the checkpoint, under the file's names.
        label: what the checkpoint is called.
        misfits: names to what is wrong with their shape or type.
        missing: names of the model that the checkpoint lacks.
        unexpected: names of the checkpoint that the model lacks.
    """
    parts = [
        f"{len(names)} {what} ({some(names, separator)})"
        for names, what, separator in (
            (list(misfits.values()), "tensors have another shape or type", "; "),
            (missing, f"of the model's {len(own)} tensors are missing in it", ", "),
            (unexpected, "tensors in it are not the model's", ", "),
        )
        if names
    ]
    file, here = (describe({n: tuple(t.shape) for n, t in tensors.items()}) for tensors in (state, own))
    return (
        f"{label} does not fit {type(model).__name__}: {'; '.join(parts)}. The file looks like {file}; "
        f"this model is {here}. Choose the model and type that the file was made for, or another file."
    )


def some(names: list[str], separator: str = ", ") -> str:
    """The first few of ``names``."""
    return separator.join([*names[:_EXAMPLES], *(["..."] if len(names) > _EXAMPLES else [])])


def shape_of(tensor: Tensor) -> str:
    """Shape and type of a tensor ("[2, 3] float32")."""
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
