"""Build the optimizer of a run from parameter groups, and name and restore its state."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from vlkit.config.schema import OptimConfig
from vlkit.errors import ConfigError

Group = dict[str, Any]


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    decay_norm_and_bias: bool = True,
    lr_scale: Mapping[str, float] | None = None,
) -> list[Group]:
    """Group parameters by decay and rate, each parameter once, without frozen ones.

    Args:
        model: to be trained.
        weight_decay: AdamW's decay.
        decay_norm_and_bias: decay biases and one-dimensional weights too, as the original BLIP does.
        lr_scale: pattern of parameter names to a factor on the learning rate. A pattern is a shell pattern
            (``visual_encoder.*``), or a regular expression after ``re:``; the first match counts.

    Returns:
        Groups with ``params``, ``names`` (in the same order), ``weight_decay`` and ``lr_scale``.

    Raises:
        ConfigError: all parameters are frozen, or a pattern matches none or is malformed.
    """
    patterns = {pattern: _compile(pattern) for pattern in lr_scale or {}}
    unused = set(patterns)
    groups: dict[tuple[float, float], Group] = {}
    for name, parameter in model.named_parameters():  # tied parameters come once, under their first name
        if not parameter.requires_grad:
            continue
        fitting = [pattern for pattern, expression in patterns.items() if expression.fullmatch(name)]
        unused -= set(fitting)
        scale = float((lr_scale or {})[fitting[0]]) if fitting else 1.0
        decay = weight_decay if decay_norm_and_bias or parameter.ndim > 1 else 0.0
        group = groups.setdefault((scale, decay), {"params": [], "names": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
        group["names"].append(name)
    if unused:
        some = ", ".join(name for name, _ in list(model.named_parameters())[:3])
        raise ConfigError(
            f"optim.lr_scale: {', '.join(map(repr, sorted(unused)))} fits no trained parameter. Names look "
            f"like {some}; write a shell pattern ('text_encoder.*') or 're:' and a regular expression."
        )
    if not groups:
        raise ConfigError(f"no parameter of {type(model).__name__} can be trained: all are frozen.")
    return list(groups.values())


def build_optimizer(
    model: nn.Module,
    optim: OptimConfig,
    device: torch.device,
    make: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
) -> torch.optim.Optimizer:
    """Build AdamW over the parameter groups of ``model``, fused where torch supports it.

    Args:
        model: already on ``device``.
        optim: the ``optim`` section.
        device: of the run.
        make: optimizer class; receives groups and AdamW's arguments.
    """
    groups = parameter_groups(model, optim.weight_decay, optim.decay_norm_and_bias, optim.lr_scale)
    fused = bool(optim.fused) and device.type in ("cpu", "cuda")
    return make(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group: ``rate`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def state_by_name(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's tensors under ``<tensor>:<parameter name>``."""
    return {
        f"{key}:{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"])
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_by_name(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load the result of :func:`state_by_name`. The order of parameters may differ, but not their names.

    Raises:
        KeyError: a tensor belongs to no parameter of this optimizer.
    """
    groups: list[Group] = []
    numbers: dict[str, int] = {}
    parameters: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        places = range(len(numbers), len(numbers) + len(group["names"]))
        numbers.update(zip(group["names"], places))
        parameters += group["params"]
        groups.append({**group, "params": list(places)})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for full, tensor in tensors.items():
        key, _, name = full.partition(":")
        number = numbers[name]
        state.setdefault(number, {})[key] = shard_like(tensor, parameters[number])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether FSDP has divided the tensor among the processes (a DTensor, whose import is slow)."""
    return hasattr(tensor, "device_mesh")


def unsharded_tensor(tensor: Any) -> torch.Tensor:
    """Gather a sharded tensor in every process (a collective); return other tensors unchanged."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def shard_like(tensor: torch.Tensor, own: Any) -> torch.Tensor:
    """Divide ``tensor``, which every process holds, as ``own`` is divided; unchanged if that is not or differs in
    shape."""
    if not is_sharded(own) or tensor.shape != own.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor  # a slow import

    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern[3:] if pattern.startswith("re:") else fnmatch.translate(pattern))
    except re.error as error:
        raise ConfigError(f"optim.lr_scale: {pattern!r} is not a regular expression: {error}.") from error
