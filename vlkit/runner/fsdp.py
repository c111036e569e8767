"""Weights, gradients and optimizer state cut up among the processes (PyTorch's FSDP2)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vlkit.runner.distributed import World
from vlkit.runner.optimizer import state_by_name
from vlkit.runner.parallel import Parallel


class Fsdp(Parallel):
    """Each process keeps its part of every weight, and is lent the rest while it computes.

    The blocks that ``model.image_blocks()`` lists are lent one by one, all other weights for a whole step. Scalar
    weights stay whole. A model may not change its weights in ``forward`` (which sees what is lent), scalars aside; what
    it does in ``move_momentum()``, if it has that, is done before ``forward``, on this process's parts, and ``forward``
    is told by ``update=False``.

    Evaluation calls methods besides ``forward``, in its own rhythm in each process: it has a copy of the model, whose
    weights are there only while it lasts.
    """

    whole_in_each = False

    def __init__(self, model: nn.Module, world: World, device: torch.device):
        super().__init__(model, world, device)
        self._whole = copy.deepcopy(model)
        _empty(self._whole)
        self._scalars: list[nn.Parameter] = []

    @property
    def models(self) -> list[nn.Module]:
        return [self.model, self._whole]

    def wrap(self) -> nn.Module:
        mesh = init_device_mesh(self.device.type, (self.world.size,))
        self._scalars = [p for p in self.model.parameters() if p.ndim == 0]
        options: dict[str, Any] = {"mesh": mesh, "ignored_params": set(self._scalars)}
        for block in self.model.image_blocks() if hasattr(self.model, "image_blocks") else ():  # type: ignore[operator]
            fully_shard(block, **options)
        fully_shard(self.model, **options)
        if hasattr(self.model, "move_momentum"):
            self.model.register_forward_pre_hook(_move_first, prepend=True, with_kwargs=True)
        return self.model

    def exchange(self, wrapped: nn.Module, last: bool) -> Any:
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(last)
        return contextlib.nullcontext()

    def clip(self, parameters: Sequence[nn.Parameter], largest: float | None) -> Tensor:
        self._average_scalars()
        gradients = [p.grad for p in parameters if p.grad is not None]
        whole = [g for g in gradients if not isinstance(g, DTensor)]
        parts = [g.to_local() for g in gradients if isinstance(g, DTensor)]
        squares = torch.nn.utils.get_total_norm(parts).square().to(self.device)
        dist.all_reduce(squares)
        norm = (squares + torch.nn.utils.get_total_norm(whole).square().to(self.device)).sqrt()
        if largest:
            torch._foreach_mul_(whole + parts, (largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[nn.Module]:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in self._whole.named_parameters():
                parameter.data = whole_tensor(own[name])
        for mine, theirs in zip(self._whole.modules(), self.model.modules()):
            mine._buffers = theirs._buffers
        try:
            yield self._whole
        finally:
            _empty(self._whole)

    def weights(self) -> dict[str, Tensor]:
        return self._gathered(self.model.state_dict(keep_vars=True))

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        return self._gathered(state_by_name(optimizer))

    def _gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the CPU in process 0, those of one object again of one; nothing in the others."""
        known: dict[int, Tensor] = {}
        for tensor in tensors.values():
            if id(tensor) not in known:
                whole = whole_tensor(tensor)
                kept = whole.to("cpu") if self.world.is_main else whole.new_empty(0)
                known[id(tensor)] = nn.Parameter(kept, False) if isinstance(tensor, nn.Parameter) else kept
        return {name: known[id(tensor)] for name, tensor in tensors.items()} if self.world.is_main else {}

    def _average_scalars(self) -> None:
        trained = [p for p in self._scalars if p.requires_grad]
        if not trained:
            return
        values = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in trained])
        dist.all_reduce(values)
        for parameter, value in zip(trained, values / self.world.size):
            parameter.grad = value.clone()


def whole_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, in every process; every process asks together. Others are given as they are."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, which every process has, cut up as ``like`` is."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _empty(model: nn.Module) -> None:
    """Give up the weights, but not their places."""
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)


def _move_first(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if kwargs.get("update", True):
        model.move_momentum()
    return args, {**kwargs, "update": False}
