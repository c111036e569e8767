"""Match the tensors of a checkpoint with those of a model, and report what does not come from the file."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vlkit.errors import CheckpointError
from vlkit.io.tensor_files import damaged_values, describe_non_finite
from vlkit.models.vit import resize_pos_embed
from vlkit.models.weights.names import QUEUES, Adapter, describe, find_adapter, twins

logger = logging.getLogger(__name__)
_EXAMPLES = 3


@dataclass
class LoadReport:
    """Result of loading a checkpoint.

    Args:
        source: of the tensors.
        loaded: number of the model's tensors that the file provides.
        missing: names of the model that it does not provide; they keep their values.
        unexpected: names in it that the model does not have.
        resized: position embeddings that were interpolated to the model's grid.
        ignored: names in it that the model does not have, as expected of this kind of file.
        filled: tensors of momentum encoders that the file does not hold, copied from their encoders.
    """

    source: str
    loaded: int = 0
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the report as one line."""
        parts = [
            f"{len(names)} {word} ({_some(names)})"
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


def fit_tensors(
    model: nn.Module, state: Mapping[str, Tensor], label: str, adapter: str | Adapter | None, strict: bool
) -> tuple[dict[str, Tensor], LoadReport]:
    """Return the values for the names of ``model`` and the report.

    Args:
        model: may be on the meta device; is not changed.
        state: tensors of the checkpoint.
        label: name of the checkpoint in messages.
        adapter: see :func:`~vlkit.models.weights.load.load_weights`.
        strict: raise unless every name and shape is accounted for.

    Raises:
        CheckpointError: the checkpoint is of another model, or holds NaN or infinity.
    """
    chosen = find_adapter(adapter, state)
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    values, misfits, report = _match(own, chosen.translate(state), chosen, label)
    lacking = [name for name in report.missing if name not in misfits and not chosen.may_start_fresh(name)]
    if (strict and (misfits or report.unexpected or lacking)) or not report.loaded:
        raise CheckpointError(_explain(model, own, state, label, misfits, lacking, report.unexpected))
    if wrong := damaged_values(values, own):
        raise CheckpointError(
            f"{label} holds weights that are not finite: {describe_non_finite(wrong)}. A training that diverged wrote "
            "them, or the file is damaged. Give an earlier checkpoint, or another file."
        )
    return values, report


def _match(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], adapter: Adapter, label: str
) -> tuple[dict[str, Tensor], dict[str, str], LoadReport]:
    """Return values by name of the model, and why a value does not fit by name."""
    values: dict[str, Tensor] = {}
    misfits: dict[str, str] = {}
    report = LoadReport(label)
    modules = {name.partition(".")[0] for name in own}
    for given_name, value in given.items():
        names = [name for name in (given_name, *twins(given_name)) if name in own]
        if not names:
            known = report.ignored if adapter.may_ignore(given_name, modules) else report.unexpected
            known.append(given_name)
        for name in names:
            fitted = _fit(name, value, own[name])
            if fitted is not None:
                values[name] = fitted
                report.resized.extend([name] if fitted is not value else [])
            elif not adapter.may_start_fresh(name):
                misfits[name] = f"{name} is {_shape_of(value)} there and {_shape_of(own[name])} here"
    report.loaded = len(values)
    _share(own, values, label)
    _complete(own, values, report)
    return values, misfits, report


def _complete(own: Mapping[str, Tensor], values: dict[str, Tensor], report: LoadReport) -> None:
    """Derive values that the file need not hold; report the rest as missing."""
    for name in own:
        encoder = name.replace("_m.", ".", 1) if name.partition(".")[0].endswith("_m") else name
        if name.endswith(".position_ids"):  # 0, 1, 2, ...; newer files do not store them
            values[name] = torch.arange(own[name].shape[-1])[None]
        elif name not in values and encoder in values:
            values[name] = values[encoder]
            report.filled.append(name)
        elif name not in values:
            report.missing.append(name)
    for name in ("queue_ptr", "ptr_queue"):
        if name in values and "image_queue" not in values:  # a fresh queue, maybe a shorter one
            values[name] = values[name] % own["image_queue"].shape[1]


def _fit(name: str, value: Tensor, target: Tensor) -> Tensor | None:
    """Return ``value`` in the shape of ``target``, or None."""
    if value.is_floating_point() != target.is_floating_point():
        return None
    if value.shape == target.shape or name.endswith(".position_ids"):
        return value
    is_grid = name.endswith("pos_embed") and value.ndim == target.ndim == 3
    if is_grid and value.shape[-1] == target.shape[-1] and _square(value) and _square(target):
        return resize_pos_embed(value, target.shape[1])
    return None


def _square(pos_embed: Tensor) -> bool:
    """Return whether the tokens after [CLS] are a square of patches."""
    patches = pos_embed.shape[1] - 1
    return math.isqrt(patches) ** 2 == patches


def _share(own: Mapping[str, Tensor], values: dict[str, Tensor], label: str) -> None:
    """Give all names of a tensor one value."""
    groups: dict[int, list[str]] = {}
    for name, tensor in own.items():
        groups.setdefault(id(tensor), []).append(name)
    for names in groups.values():
        given = [name for name in names if name in values]
        for name in given[1:]:
            one, other = values[given[0]], values[name]
            if one.data_ptr() != other.data_ptr() and not torch.equal(one, other):
                raise CheckpointError(
                    f"{label}: {given[0]} and {name} differ in it, but are one tensor in this model. "
                    f"The file is of a model that does not share them."
                )
        if given:
            values.update(dict.fromkeys(names, values[given[0]]))


def _explain(
    model: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    label: str,
    misfits: Mapping[str, str],
    missing: list[str],
    unexpected: list[str],
) -> str:
    """Explain why a checkpoint does not fit the model: what it holds, what the model needs, what to do.

    Args:
        model: to be filled.
        own: its tensors by name.
        state: tensors of the checkpoint, under the file's names.
        label: name of the checkpoint in messages.
        misfits: names to what is wrong with their shape or type.
        missing: names of the model that the checkpoint lacks.
        unexpected: names of the checkpoint that the model lacks.
    """
    parts = [
        f"{len(names)} {what} ({_some(names, separator)})"
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


def _some(names: list[str], separator: str = ", ") -> str:
    """Join the first few of ``names``."""
    return separator.join([*names[:_EXAMPLES], *(["..."] if len(names) > _EXAMPLES else [])])


def _shape_of(tensor: Tensor) -> str:
    """Return shape and type of a tensor ("[2, 3] float32")."""
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
