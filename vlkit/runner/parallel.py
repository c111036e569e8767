"""Share a model among the processes of a run: DDP, FSDP2, or DDP with sharded optimizer state (OSS).

Steps and checkpoints are the same in all three, so a run may be resumed with another kind or another number of
processes. A single process ignores the setting.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vlkit.config.schema import OptimConfig
from vlkit.errors import ConfigError, did_you_mean
from vlkit.runner.distributed import World
from vlkit.runner.optimizer import build_optimizer, is_sharded, state_by_name, unsharded_tensor

KINDS = ("ddp", "fsdp", "oss")


class Parallel:
    """DDP: a copy of the model in every process, with averaged gradients. A single process uses the model as it is.

    Args:
        model: on its device, the same in every process.
        world: the processes.
        device: of this process.

    Attributes:
        wrapped: the module to call in training; see :meth:`wrap`.
    """

    whole_in_each = True
    """Whether process 0 holds all weights and optimizer state without help of the others."""

    def __init__(self, model: nn.Module, world: World, device: torch.device):
        self.model, self.world, self.device = model, world, device
        self.wrapped = model

    @property
    def models(self) -> list[nn.Module]:
        """The model, and its copy for evaluation where there is one."""
        return [self.model]

    def wrap(self) -> nn.Module:
        """Wrap the model for training. Call it once, before :meth:`optimizer`."""
        if self.world.size > 1:
            self.wrapped = DistributedDataParallel(
                self.model,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,  # the model keeps queues and running means equal itself
                find_unused_parameters=bool(getattr(self.model, "find_unused_parameters", False)),
                gradient_as_bucket_view=True,
            )
        return self.wrapped

    def optimizer(self, optim: OptimConfig) -> torch.optim.Optimizer:
        """Build AdamW over the parameters of this process."""
        return build_optimizer(self.model, optim, self.device)

    def gradient_sync(self, last: bool) -> Any:
        """Return the context of a micro-batch: only the backward pass of the last one synchronizes gradients."""
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.wrapped.no_sync()

    def clip(self, parameters: Sequence[nn.Parameter], largest: float | None) -> Tensor:
        """Scale gradients down to a total norm of ``largest`` (None or 0: no limit); return the norm before that."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if largest:
            torch.nn.utils.clip_grads_with_norm_(parameters, largest, norm)
        return norm

    @contextlib.contextmanager
    def unsharded(self) -> Iterator[nn.Module]:
        """Provide the model with all its weights, for evaluation. A collective: every process enters it."""
        yield self.model

    def weights(self) -> dict[str, Tensor]:
        """Gather the model's state by name in process 0, tied tensors as one object. A collective."""
        return self.model.state_dict(keep_vars=True)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Gather the optimizer's state by name in process 0. A collective."""
        return state_by_name(optimizer)


class Oss(Parallel):
    """DDP in which each process keeps the optimizer state of its part of the weights (fairscale's OSS)."""

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

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
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


class Fsdp(Parallel):
    """FSDP2: each process keeps its shard of every weight and gathers the rest while it computes.

    The blocks that ``model.image_blocks()`` lists are gathered one by one, all other weights for a whole step. Scalar
    weights are replicated. A model must not change its weights in ``forward`` (it sees gathered copies), scalars
    aside; ``move_momentum()``, where the model has it, runs before ``forward`` on this process's shards, and
    ``forward`` receives ``update=False``.

    Evaluation calls methods besides ``forward``, at a different pace in each process: it uses a copy of the model,
    which holds weights only during :meth:`unsharded`.
    """

    whole_in_each = False

    def __init__(self, model: nn.Module, world: World, device: torch.device):
        super().__init__(model, world, device)
        self._copy = copy.deepcopy(model)
        _free(self._copy)
        self._scalars: list[nn.Parameter] = []

    @property
    def models(self) -> list[nn.Module]:
        return [self.model, self._copy]

    def wrap(self) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh  # slow imports, for FSDP alone
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world.size,))
        self._scalars = [p for p in self.model.parameters() if p.ndim == 0]
        options: dict[str, Any] = {"mesh": mesh, "ignored_params": set(self._scalars)}
        for block in self.model.image_blocks() if hasattr(self.model, "image_blocks") else ():  # type: ignore[operator]
            fully_shard(block, **options)
        fully_shard(self.model, **options)
        if hasattr(self.model, "move_momentum"):
            self.model.register_forward_pre_hook(_move_momentum_first, prepend=True, with_kwargs=True)
        return self.model

    def gradient_sync(self, last: bool) -> Any:
        self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        return contextlib.nullcontext()

    def clip(self, parameters: Sequence[nn.Parameter], largest: float | None) -> Tensor:
        self._average_scalars()
        gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
        replicated = [g for g in gradients if not is_sharded(g)]
        shards = [g.to_local() for g in gradients if is_sharded(g)]
        squares = torch.nn.utils.get_total_norm(shards).square().to(self.device)
        dist.all_reduce(squares)
        norm = (squares + torch.nn.utils.get_total_norm(replicated).square().to(self.device)).sqrt()
        if largest:
            torch._foreach_mul_(replicated + shards, (largest / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @contextlib.contextmanager
    def unsharded(self) -> Iterator[nn.Module]:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in self._copy.named_parameters():
                parameter.data = unsharded_tensor(own[name])
        for mine, theirs in zip(self._copy.modules(), self.model.modules()):
            mine._buffers = theirs._buffers
        try:
            yield self._copy
        finally:
            _free(self._copy)

    def weights(self) -> dict[str, Tensor]:
        return self._gathered(self.model.state_dict(keep_vars=True))

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        return self._gathered(state_by_name(optimizer))

    def _gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather whole tensors on the CPU of process 0, those of one object as one object; empty in the others."""
        known: dict[int, Tensor] = {}
        for tensor in tensors.values():
            if id(tensor) not in known:
                full = unsharded_tensor(tensor)
                kept = full.to("cpu") if self.world.is_main else full.new_empty(0)
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


def share_model(kind: str, model: nn.Module, world: World, device: torch.device) -> Parallel:
    """Return the :class:`Parallel` of a kind, one of :data:`KINDS`.

    Raises:
        ConfigError: unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"run.parallel is {kind!r}; allowed: {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    if world.size == 1:
        return Parallel(model, world, device)
    return {"ddp": Parallel, "fsdp": Fsdp, "oss": Oss}[kind](model, world, device)


def _free(model: nn.Module) -> None:
    """Release the memory of all weights; the parameters stay, empty."""
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)


def _move_momentum_first(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if kwargs.get("update", True):
        model.move_momentum()
    return args, {**kwargs, "update": False}
