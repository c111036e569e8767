"""Weights into models: foreign names in, ours out, and a report of what did not come from the file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vlkit.errors import CheckpointError
from vlkit.io.files import mismatch
from vlkit.io.tensor_files import damaged_values, describe_non_finite
from vlkit.models.vit import resize_pos_embed
from vlkit.models.weights.files import read_checkpoint, weights_file
from vlkit.models.weights.names import (
    ADAPTERS,
    Adapter,
    find_adapter,
    from_hugging_face,
    to_hugging_face,
    twins,
)
from vlkit.models.weights.report import LoadReport, explain, shape_of

__all__ = [
    "ADAPTERS",
    "Adapter",
    "LoadReport",
    "build_with_weights",
    "fit_weights",
    "from_hugging_face",
    "load_weights",
    "read_checkpoint",
    "to_hugging_face",
]
_OF_VALUES = (Tensor.normal_, Tensor.uniform_, functional.normalize)


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
        adapter: name of an entry of :data:`ADAPTERS`, or one of your own; None: recognized by the names.
        sha256: expected checksum of the file, in hexadecimal.
        strict: raise unless every name and shape is accounted for. Otherwise what fits is loaded.

    Raises:
        CheckpointError: the file cannot be read, is of another model, or holds NaN or infinity.
    """
    state, label = _open(source, sha256)
    report = _load(model, state, label, adapter, strict)
    report.log()
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
    report = None
    with contextlib.suppress(CheckpointError):  # raised again below, unless values of a new model excuse it
        report = _load(model, state, label, adapter, strict=True) if model is not None else None
    if model is None or report is None or _holds_meta(model):
        model = build()
        report = _load(model, state, label, adapter, strict=True)
    report.log()
    return model, report


def _open(source: str | Path | Mapping[str, Tensor], sha256: str | None) -> tuple[dict[str, Tensor], str]:
    if isinstance(source, Mapping):
        return dict(source), "the given tensors"
    if sha256 is not None and (problem := mismatch(weights_file(source), {"sha256": sha256.lower()})):
        raise CheckpointError(f"{source}: {problem}. Is it the right file, and complete?")
    return read_checkpoint(source), str(source)


def fit_weights(
    model: nn.Module, source: str | Path | Mapping[str, Tensor], adapter: str | Adapter | None = None
) -> tuple[dict[str, Tensor], LoadReport]:
    """What a checkpoint gives for each name of ``model``, which may be on the meta device and is not changed.

    Args:
        model, source, adapter: as for :func:`load_weights`.

    Raises:
        CheckpointError: as :func:`load_weights`, when strict.
    """
    return _fitted(model, *_open(source, None), adapter, strict=True)


def _load(
    model: nn.Module, state: Mapping[str, Tensor], label: str, adapter: str | Adapter | None, strict: bool
) -> LoadReport:
    values, report = _fitted(model, state, label, adapter, strict)
    _fill(model, model.state_dict(keep_vars=True), values)
    return report


def _fitted(
    model: nn.Module, state: Mapping[str, Tensor], label: str, adapter: str | Adapter | None, strict: bool
) -> tuple[dict[str, Tensor], LoadReport]:
    chosen = find_adapter(adapter, state)
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    values, misfits, report = _match(own, chosen.translate(state), chosen, label)
    lacking = [name for name in report.missing if name not in misfits and not chosen.may_start_fresh(name)]
    if (strict and (misfits or report.unexpected or lacking)) or not report.loaded:
        raise CheckpointError(explain(model, own, state, label, misfits, lacking, report.unexpected))
    if wrong := damaged_values(values, own):
        raise CheckpointError(
            f"{label} holds weights that are not finite: {describe_non_finite(wrong)}. A training that diverged wrote "
            "them, or the file is damaged. Give an earlier checkpoint, or another file."
        )
    return values, report


def _match(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], adapter: Adapter, label: str
) -> tuple[dict[str, Tensor], dict[str, str], LoadReport]:
    """Values by name of the model, and for each name whose value does not fit, how."""
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
                misfits[name] = f"{name} is {shape_of(value)} there and {shape_of(own[name])} here"
    report.loaded = len(values)
    _share(own, values, label)
    _complete(own, values, report)
    return values, misfits, report


def _complete(own: Mapping[str, Tensor], values: dict[str, Tensor], report: LoadReport) -> None:
    """What follows from the values that the file gave; the rest is missing."""
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


class _Undrawn(TorchFunctionMode):
    """Leaves out what initial values are drawn by: on the meta device there are none, and torch would import its
    compiler for it, which takes seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__ or func in _OF_VALUES:
            return args[0] if args else next(value for value in given.values() if isinstance(value, Tensor))
        return (torch.empty if func is torch.randn else func)(*args, **given)


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The model with shapes and no values, or None when its constructor needs values."""
    try:
        with torch.device("meta"), _Undrawn():
            return build()
    except (RuntimeError, NotImplementedError):
        return None


def _holds_meta(model: nn.Module) -> bool:
    """Whether a value is still to come: of a parameter, a buffer or a plain attribute."""
    held = [t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values(), *vars(m).values())]
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in held)
