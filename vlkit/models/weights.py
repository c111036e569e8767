"""Weights into models: foreign names in, ours out, and a report of what did not come from the file."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vlkit.errors import CheckpointError
from vlkit.io import mismatch
from vlkit.models.vit import resize_pos_embed
from vlkit.models.weights_files import read_checkpoint, weights_file
from vlkit.models.weights_names import (
    ADAPTERS,
    QUEUES,
    Adapter,
    describe,
    find_adapter,
    from_hugging_face,
    to_hugging_face,
)

__all__ = [
    "ADAPTERS",
    "Adapter",
    "LoadReport",
    "build_with_weights",
    "from_hugging_face",
    "load_weights",
    "read_checkpoint",
    "to_hugging_face",
]
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
        told = [
            f"{len(names)} {word} ({_some(names)})"
            for word in ("missing", "unexpected", "resized", "ignored", "filled")
            if (names := getattr(self, word))
        ]
        return "; ".join([f"{self.source}: {self.loaded} tensors loaded", *told])


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    adapter: str | Adapter | None = None,
    sha256: str | None = None,
    strict: bool = True,
) -> LoadReport:
    """Fill ``model`` from a checkpoint; parameters keep their identity, type and device.

    Position embeddings of another grid are resized, queues of another size stay as they are, names that share a
    tensor fill each other, and a momentum encoder that the file lacks starts as its encoder.

    Args:
        model: to fill.
        source: what :func:`read_checkpoint` takes, or tensors by name.
        adapter: name of an entry of :data:`ADAPTERS`, or one of your own; None: recognised by the names.
        sha256: expected checksum of the file, in hexadecimal.
        strict: raise unless every name and shape is accounted for. Otherwise what fits is loaded.

    Raises:
        CheckpointError: the file cannot be read, or is of another model.
    """
    state, label = _open(source, sha256)
    report = _load(model, state, label, adapter, strict)
    logger.info("%s", report.summary())
    return report


def build_with_weights(
    build: Callable[[], nn.Module],
    source: str | Path | Mapping[str, Tensor],
    adapter: str | Adapter | None = None,
    sha256: str | None = None,
) -> tuple[nn.Module, LoadReport]:
    """A new model with weights, without drawing random ones first where the file gives them all.

    Args:
        build: makes the model on the CPU.
        source, adapter, sha256: as for :func:`load_weights`.

    Raises:
        CheckpointError: as :func:`load_weights`.
    """
    state, label = _open(source, sha256)
    model = _on_meta(build)
    report = _load(model, state, label, adapter, strict=True) if model is not None else None
    if model is None or report is None or _holds_meta(model):
        model = build()
        report = _load(model, state, label, adapter, strict=True)
    logger.info("%s", report.summary())
    return model, report


def _open(source: str | Path | Mapping[str, Tensor], sha256: str | None) -> tuple[dict[str, Tensor], str]:
    if isinstance(source, Mapping):
        return dict(source), "the given tensors"
    if sha256 is not None and (problem := mismatch(weights_file(source), {"sha256": sha256.lower()})):
        raise CheckpointError(f"{source}: {problem}. Is it the right file, and complete?")
    return read_checkpoint(source), str(source)


def _load(
    model: nn.Module, state: Mapping[str, Tensor], label: str, adapter: str | Adapter | None, strict: bool
) -> LoadReport:
    chosen = find_adapter(adapter, state)
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    values, misfits, report = _match(own, chosen.translate(state), chosen, label)
    lacking = [name for name in report.missing if name not in misfits and not _may_be_fresh(name, chosen)]
    if (strict and (misfits or report.unexpected or lacking)) or not report.loaded:
        raise CheckpointError(_explain(model, own, state, label, misfits, lacking, report.unexpected))
    _fill(model, own, values)
    return report


def _match(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], adapter: Adapter, label: str
) -> tuple[dict[str, Tensor], dict[str, str], LoadReport]:
    """Values by name of the model, and for each name whose value does not fit, how."""
    values: dict[str, Tensor] = {}
    misfits: dict[str, str] = {}
    report = LoadReport(label)
    for name, value in given.items():
        if name not in own:
            known = report.ignored if name.startswith(adapter.ignored) else report.unexpected
            known.append(name)
            continue
        fitted = _fit(name, value, own[name])
        if fitted is not None:
            values[name] = fitted
            report.resized.extend([name] if fitted is not value else [])
        elif name not in QUEUES:
            misfits[name] = f"{name} is {_shape(value)} there and {_shape(own[name])} here"
    report.loaded = len(values)
    _share(own, values, label)
    for name in own:
        encoder = name.replace("_m.", ".", 1) if name.partition(".")[0].endswith("_m") else name
        if name.endswith(".position_ids"):  # 0, 1, 2, ...; newer files do not store them
            values[name] = torch.arange(own[name].shape[-1])[None]
        elif name not in values and encoder in values:
            values[name] = values[encoder]
            report.filled.append(name)
        elif name not in values:
            report.missing.append(name)
    return values, misfits, report


def _fit(name: str, value: Tensor, target: Tensor) -> Tensor | None:
    """``value`` in the shape of ``target``, or None."""
    if value.is_floating_point() != target.is_floating_point():
        return None
    if value.shape == target.shape or name.endswith(".position_ids"):
        return value
    is_grid = name.endswith("pos_embed") and value.ndim == target.ndim == 3
    if is_grid and value.shape[-1] == target.shape[-1] and _square(value) and _square(target):
        return resize_pos_embed(value, target.shape[1])
    return None


def _square(pos_embed: Tensor) -> bool:
    """Whether the tokens behind [CLS] are a square of patches."""
    patches = pos_embed.shape[1] - 1
    return math.isqrt(patches) ** 2 == patches


def _share(own: Mapping[str, Tensor], values: dict[str, Tensor], label: str) -> None:
    """Names of one tensor get one value."""
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


def _may_be_fresh(name: str, adapter: Adapter) -> bool:
    return name in QUEUES or name.startswith(adapter.fresh)


@torch.no_grad()
def _fill(model: nn.Module, own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copies: what is mapped from a file would break when the file is overwritten."""
    made: dict[int, Tensor] = {}
    for name, value in values.items():
        target = own[name]
        if not target.is_meta:
            target.copy_(value)
        elif id(target) not in made:
            fresh = torch.empty(target.shape, dtype=target.dtype).copy_(value)
            is_parameter = isinstance(target, nn.Parameter)
            made[id(target)] = nn.Parameter(fresh, target.requires_grad) if is_parameter else fresh
    for module in model.modules() if made else ():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if id(tensor) in made:  # in every place that shares it, so that ties stay
                    store[name] = made[id(tensor)]  # type: ignore[assignment]


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The model with shapes and no values, or None when its constructor needs values."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError):
        return None


def _holds_meta(model: nn.Module) -> bool:
    """Whether a value is still to come: of a parameter, a buffer or a plain attribute."""
    held = [t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values(), *vars(m).values())]
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in held)


def _explain(
    model: nn.Module,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    label: str,
    misfits: Mapping[str, str],
    missing: list[str],
    unexpected: list[str],
) -> str:
    told = [
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
        f"{label} does not fit {type(model).__name__}: {'; '.join(told)}. The file looks like {file}; "
        f"this model is {here}. Choose the model and type that the file was made for, or another file."
    )


def _some(names: list[str], separator: str = ", ") -> str:
    return separator.join([*names[:_EXAMPLES], *(["..."] if len(names) > _EXAMPLES else [])])


def _shape(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
