"""Activation checkpointing: recompute blocks in the backward pass instead of keeping their activations."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlkit.errors import ConfigError, did_you_mean
from vlkit.runner.distributed import World

logger = logging.getLogger(__name__)

KINDS = ("auto", "none", "torch", "fairscale")
RESERVE = 0.1
"""Share of a device's memory that stays free, for longer texts in later steps and for fragmentation."""
_MIB = 2**20


def checkpoint_activations(model: nn.Module, kind: str) -> None:
    """Recompute the blocks that ``model.checkpoint_blocks()`` lists; state-dict names stay.

    Gradients are the same to the bit. ``torch`` is the non-reentrant kind and works everywhere; ``fairscale``
    is what the original BLIP used, and fails under DDP that looks for unused parameters. ``auto`` leaves the blocks to
    :class:`AutoCheckpointing`.

    Raises:
        ConfigError: unknown kind, a model that lists no blocks, or fairscale is not installed.
    """
    if kind in ("none", "auto"):
        return
    if kind not in KINDS:
        raise ConfigError(
            f"run.activation_checkpointing is {kind!r}; allowed: {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"
        )
    if not hasattr(model, "checkpoint_blocks"):
        raise ConfigError(
            f"run.activation_checkpointing is {kind!r}, but {type(model).__name__} has no method "
            "checkpoint_blocks() that lists the modules to recompute. Set it to 'none'."
        )
    wrap = _wrap_torch
    if kind == "fairscale":
        try:
            from fairscale.nn.checkpoint import checkpoint_wrapper
        except ImportError as error:
            raise ConfigError(
                "run.activation_checkpointing is 'fairscale', which is not installed here: pip install fairscale, or "
                "use 'torch', which needs nothing and gives the same gradients."
            ) from error
        wrap = checkpoint_wrapper  # replaces the block's forward in place
    for block in model.checkpoint_blocks():  # type: ignore[operator]
        wrap(block)


class SavedBytes:
    """Count the bytes that autograd keeps for the backward pass of what runs inside the context.

    Args:
        known: tensors that exist anyway and are not counted.
        blocks: modules that are recomputed, and keep their inputs only.
    """

    def __init__(self, known: Iterable[Tensor], blocks: Iterable[nn.Module] = ()):
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._held: list[Tensor] = []  # the address of a freed tensor may be given to another one
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)
        self._blocks = list(blocks)
        self.bytes = 0

    def __enter__(self) -> SavedBytes:
        self._handles = [block.register_forward_pre_hook(self._count_inputs) for block in self._blocks]
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        self._held.clear()
        for handle in self._handles:
            handle.remove()

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self._held.append(tensor.detach())
            self.bytes += storage.nbytes()
        return tensor

    def _count_inputs(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        for each in args:
            if isinstance(each, Tensor):
                self._count(each)


def tensors_of(model: nn.Module) -> list[Tensor]:
    """List parameters and buffers, each once."""
    return list({id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}.values())


class DeviceMemory(Protocol):
    """Memory of a device, as :class:`AutoCheckpointing` needs it.

    Attributes:
        reserve: bytes that are planned to stay free.
    """

    reserve: int

    def watch(self) -> None:
        """Start measuring the peak."""

    def spare(self) -> int:
        """Return the bytes above the reserve that were free at the peak since :meth:`watch`; negative where the
        reserve was used."""


class CudaMemory:
    """Memory of a GPU, which other processes may use too.

    Args:
        device: with its index.
    """

    def __init__(self, device: torch.device):
        self.device = device
        # PyTorch 2.6, the oldest supported one, may lack the call.
        fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(device)
        self.limit = int(fraction * torch.cuda.mem_get_info(device)[1])
        self.reserve = int(RESERVE * self.limit)

    def watch(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def spare(self) -> int:
        reserved = torch.cuda.memory_reserved(self.device)
        free = min(torch.cuda.mem_get_info(self.device)[0], self.limit - reserved)
        return free + reserved - torch.cuda.max_memory_allocated(self.device) - self.reserve


def device_memory(device: torch.device) -> DeviceMemory | None:
    """Return the memory of a GPU; None for a CPU, which swaps, and for MPS, which does not report it."""
    return CudaMemory(device) if device.type == "cuda" else None


class AutoCheckpointing:
    """Recompute as few blocks as the device's memory requires; steps, losses and gradients stay the same.

    The first two steps recompute every block. The first one allocates what stays (optimizer state, buckets,
    workspaces). In the second, the peak shows how much memory is left, and each block's forward pass runs once more
    to count what the block would keep. From the third step on the largest blocks are recomputed, as many as do not
    fit, and the others run unchanged. If the reserve runs low later, further blocks are recomputed.
    All processes decide by the smallest memory left in any of them.

    Args:
        model: ``checkpoint_blocks()`` lists the blocks; a model without that method is left alone.
        memory: of this process's device; None: nothing is recomputed.
        world: the processes.
        grad_accum_steps: micro-batches per step.
    """

    def __init__(self, model: nn.Module, memory: DeviceMemory | None, world: World, grad_accum_steps: int = 1):
        self.memory, self.world, self.grad_accum_steps = memory, world, grad_accum_steps
        listed = model.checkpoint_blocks() if memory and hasattr(model, "checkpoint_blocks") else ()  # type: ignore[operator]
        self.blocks = [_Block(block) for block in listed]
        self._steps = 0
        for block in self.blocks:
            block.recompute()

    @property
    def recomputed(self) -> list[bool]:
        """Whether each block is recomputed."""
        return [block.recomputed for block in self.blocks]

    def after_step(self, check: bool) -> None:
        """Count a step; every process calls it after each one.

        Args:
            check: whether to check the reserve once the choice is made; a collective.
        """
        if self.memory is None or not self.blocks:
            return
        self._steps += 1
        if self._steps == 1:
            for block in self.blocks:
                block.count()
            self.memory.watch()
        elif self._steps == 2:
            self._choose(self.memory)
        elif check:
            self._check_reserve(self.memory)

    def after_evaluation(self) -> None:
        """Forget the peak of an evaluation, which says nothing about training."""
        if self.memory is not None and self.blocks:
            self.memory.watch()

    def _choose(self, memory: DeviceMemory) -> None:
        sizes = [-(-block.bytes // self.grad_accum_steps) for block in self.blocks]
        found = self.world.gather([(memory.spare(), sizes)])
        for block, counts in zip(self.blocks, zip(*(counts for _, counts in found))):
            block.bytes = max(counts)
            block.keep()
        spare = min(spare for spare, _ in found)
        self._recompute(sum(block.bytes for block in self.blocks) - spare)
        memory.watch()

    def _check_reserve(self, memory: DeviceMemory) -> None:
        spare = memory.spare()
        low = self.world.sum([2 * spare < -memory.reserve])[0]  # a smaller message than gathering what is spare
        if low and not all(self.recomputed):
            self._recompute(-min(self.world.gather([spare])))
        memory.watch()

    def _recompute(self, missing: int) -> None:
        """Recompute the largest blocks until ``missing`` bytes are saved. Of equal ones the first: their backward pass
        comes last, when others have freed their memory."""
        for block in sorted(self.blocks, key=lambda block: -block.bytes):
            if missing > 0 and not block.recomputed:
                block.recompute()
                missing -= block.bytes
        saved = sum(block.bytes for block in self.blocks if block.recomputed)
        logger.info(
            "activation checkpointing: %d of %d blocks are recomputed, which saves %d of their %d MiB%s.",
            sum(self.recomputed),
            len(self.blocks),
            saved // _MIB,
            sum(block.bytes for block in self.blocks) // _MIB,
            f"; {missing // _MIB} MiB more were wanted" if missing > 0 else "",
        )


class _Block:
    """A block and the way its forward pass runs at present.

    Attributes:
        bytes: what it would keep, counted since :meth:`count`.
    """

    def __init__(self, module: nn.Module):
        self.module, self.forward = module, module.forward
        self.own = "forward" in vars(module)  # a compiled one, for example
        self.recomputed, self.bytes = False, 0

    def keep(self) -> None:
        """Restore the forward pass."""
        self.recomputed = False
        if self.own:
            self.module.forward = self.forward
        else:
            vars(self.module).pop("forward", None)

    def recompute(self) -> None:
        """Keep the inputs only, and recompute the rest."""
        self.recomputed = True
        self.module.forward = _recomputed(self.module, self.forward)

    def count(self) -> None:
        """Recompute, and count what would be kept."""
        recomputed = _recomputed(self.module, self.forward)

        @functools.wraps(self.forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.module.training and torch.is_grad_enabled():
                self.bytes += _kept_bytes(self.module, self.forward, args, kwargs)
            return recomputed(*args, **kwargs)

        self.module.forward = counted


def _wrap_torch(block: nn.Module) -> None:
    block.forward = _recomputed(block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not block.training:
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed


@torch.compiler.disable
def _kept_bytes(block: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Count the bytes that ``forward`` keeps besides weights and inputs; random numbers are restored."""
    # Listed here and not earlier: FSDP gathers whole weights for the forward pass only.
    known = [*block.parameters(), *block.buffers(), *_tensors((args, kwargs))]
    devices = {tensor.device for tensor in known if tensor.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)), SavedBytes(known) as saved:
        forward(*args, **kwargs)
    return saved.bytes


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
