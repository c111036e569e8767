"""How the processes of a run share a model: a copy each (DDP), sharded (FSDP2), or with sharded optimizer state (OSS).

The steps are the same in all of them, and so are checkpoints: a run may be continued with another way, or with another
number of processes. A process alone shares nothing, whatever was asked for.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vlkit.config.schema import OptimConfig
from vlkit.errors import ConfigError, did_you_mean
from vlkit.runner.distributed import World
from vlkit.runner.optimizer import build_optimizer, state_by_name

KINDS = ("ddp", "fsdp", "oss")


class Parallel:
    """A copy of the model in every process, whose gradients are averaged (DDP).

    Args:
        model: on its device, the same in every process.
        world: the processes.
        device: of this process.
    """

    def __init__(self, model: nn.Module, world: World, device: torch.device):
        self.model, self.world, self.device = model, world, device

    whole_in_each = True
    """Whether process 0 holds weights and optimizer state without asking the others."""

    @property
    def models(self) -> list[nn.Module]:
        """The model, and a copy for evaluation where there is one."""
        return [self.model]

    def wrap(self) -> nn.Module:
        """What is to be called in training; once, before :meth:`optimizer`."""
        if self.world.size == 1:
            return self.model
        return DistributedDataParallel(
            self.model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            broadcast_buffers=False,  # queues and running means are the model's own care
            find_unused_parameters=bool(getattr(self.model, "find_unused_parameters", False)),
            gradient_as_bucket_view=True,
        )

    def optimizer(self, optim: OptimConfig) -> torch.optim.Optimizer:
        """AdamW over what this process holds."""
        return build_optimizer(self.model, optim, self.device)

    def exchange(self, wrapped: nn.Module, last: bool) -> Any:
        """The context of a micro-batch: gradients are exchanged once a step, in the backward pass of the last one."""
        if last or not isinstance(wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        return wrapped.no_sync()

    def clip(self, parameters: Sequence[nn.Parameter], largest: float | None) -> Tensor:
        """The norm of the whole gradient; gradients of more than ``largest`` (None or 0: any) are scaled down to it."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if largest:
            torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[nn.Module]:
        """The model with all its weights, not to be trained; every process enters it together."""
        yield self.model

    def weights(self) -> dict[str, Tensor]:
        """The model's whole state by name, tied tensors the same object; every process asks together, and process 0
        is given it."""
        return self.model.state_dict(keep_vars=True)

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The optimizer's whole state by name; every process asks together, and process 0 is given it."""
        return state_by_name(optimizer)


class Oss(Parallel):
    """DDP in which each process keeps the optimizer's state of its part of the weights (fairscale's OSS)."""

    whole_in_each = False

    def optimizer(self, optim: OptimConfig) -> torch.optim.Optimizer:
        try:
            from fairscale.optim import OSS
        except ImportError as error:
            raise ConfigError(
                "run.parallel is 'oss', which is fairscale's and not installed here: pip install fairscale, or use "
                "'fsdp', which shards the optimizer's state too."
            ) from error
        return build_optimizer(self.model, optim, self.device, functools.partial(OSS, optim=torch.optim.AdamW))

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        optimizer.consolidate_state_dict()  # type: ignore[attr-defined]
        if not self.world.is_main:
            return {}
        content = optimizer.state_dict()
        return {
            f"{key}:{name}": value
            for group in content["param_groups"]
            for name, number in zip(group["names"], group["params"])
            for key, value in content["state"].get(number, {}).items()
        }


def share_model(kind: str, model: nn.Module, world: World, device: torch.device) -> Parallel:
    """The way that ``kind``, one of :data:`KINDS`, names.

    Raises:
        ConfigError: no way has that name.
    """
    if kind not in KINDS:
        raise ConfigError(f"run.parallel is {kind!r}; allowed: {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    if kind == "ddp" or world.size == 1:
        return Parallel(model, world, device)
    if kind == "oss":
        return Oss(model, world, device)
    from vlkit.runner.fsdp import Fsdp  # imports a good deal of torch

    return Fsdp(model, world, device)
