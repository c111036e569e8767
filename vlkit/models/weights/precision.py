"""Weights in fewer bits, for files that are sent around: half precision, or whole numbers with a scale for each row.

A tensor ``name`` of whole numbers has a partner ``name.scale`` with one factor for each index of its first dimension;
the value is their product. Only matrices and filters are stored so: vectors stay in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlkit.errors import CheckpointError, VlkitError, did_you_mean

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_HALF = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float16}
_SCALE = ".scale"
_LARGEST = 127


def check_precision(precision: str) -> None:
    """Raise for a name that is not one of :data:`PRECISIONS`.

    Raises:
        VlkitError: no such precision.
    """
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise VlkitError(f"no precision is named {precision!r}.{hint} Allowed: {', '.join(PRECISIONS)}.")


def stored(state: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """``state`` in a precision; names of one tensor still share one.

    Args:
        state: tensors by name; those without fractions stay as they are.
        precision: one of :data:`PRECISIONS`.

    Raises:
        VlkitError: no such precision, or a value lies outside of it.
    """
    check_precision(precision)
    kept: dict[int, tuple[Tensor, ...]] = {}
    smaller: dict[str, Tensor] = {}
    for name, value in state.items():
        if id(value) not in kept:
            as_whole = precision == "int8" and _has_rows(value)
            kept[id(value)] = _whole(value) if as_whole else (_half(name, value, precision),)
        smaller.update(zip((name, name + _SCALE), kept[id(value)]))
    return smaller


def restored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`stored` wrote, with whole numbers turned into float32; anything else unchanged.

    Raises:
        CheckpointError: a scale is missing.
    """
    made: dict[int, Tensor] = {}
    full: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.dtype != torch.int8:
            full[name] = value
            continue
        if name + _SCALE not in state:
            raise CheckpointError(f"{name} is stored as whole numbers, but {name + _SCALE} is missing beside it.")
        if id(value) not in made:
            made[id(value)] = value.float() * state[name + _SCALE].float().view(-1, *[1] * (value.ndim - 1))
        full[name] = made[id(value)]
    return {name: value for name, value in full.items() if not _is_scale(name, state)}


def _has_rows(value: Tensor) -> bool:
    return value.is_floating_point() and value.ndim >= 2 and len(value) > 1


def _half(name: str, value: Tensor, precision: str) -> Tensor:
    if not value.is_floating_point():
        return value
    smaller = value.to(_HALF[precision])
    if not torch.equal(smaller.isfinite(), value.isfinite()):
        raise VlkitError(f"{name} has values beyond what {precision} can hold. Choose bf16 or fp32.")
    return smaller


def _whole(value: Tensor) -> tuple[Tensor, Tensor]:
    rows = value.detach().float()
    largest = rows.abs().flatten(1).amax(1)
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    return (rows / scale.view(-1, *[1] * (rows.ndim - 1))).round().to(torch.int8), scale


def _is_scale(name: str, state: Mapping[str, Tensor]) -> bool:
    whole = state.get(name.removesuffix(_SCALE))
    return name.endswith(_SCALE) and whole is not None and whole.dtype == torch.int8
