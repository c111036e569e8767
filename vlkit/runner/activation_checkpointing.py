"""Activation checkpointing: blocks are computed again in the backward pass instead of remembered."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlkit.errors import ConfigError, did_you_mean
from vlkit.runner.activation_memory import DeviceMemory, SavedBytes
from vlkit.runner.distributed import World

logger = logging.getLogger(__name__)

KINDS = ("auto", "none", "torch", "fairscale")
_MIB = 2**20


def checkpoint_activations(model: nn.Module, kind: str) -> None:
    """Let the blocks that ``model.checkpoint_blocks()`` lists be recomputed; state-dict names stay.

    Gradients are the same to the bit. ``torch`` is the non-reentrant kind and works everywhere; ``fairscale``
    is what the original BLIP used, and fails under DDP that looks for unused parameters. ``auto`` leaves the blocks to
    :class:`AutoCheckpointing`.

    Raises:
        ConfigError: no such kind, the model lists no blocks, or fairscale is not installed.
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
    for block in model.checkpoint_blocks():  # type: ignore[operator]
        if kind == "torch":
            block.forward = _recomputed(block, block.forward)
        else:
            _wrap_fairscale(block)


class AutoCheckpointing:
    """Recomputes as few blocks as the device's memory asks for; steps, losses and gradients stay the same.

    The first two steps recompute every block. The first of them makes room for all that stays from then on (moments of
    the optimizer, buckets, workspaces); the second tells what is left, and each block's forward pass runs once more in
    it to count what the block would keep. Then the largest blocks go on being recomputed, as many as do not fit, and
    the others are again as if nothing had been. Should the reserve run low later, some more are recomputed.
    All processes decide by the least that any of them has left.

    Args:
        model: its ``checkpoint_blocks()`` lists the blocks; one without that method is left alone.
        memory: of this process's device; None: nothing is recomputed.
        world: the processes.
        accumulate: micro-batches per step.
    """

    def __init__(self, model: nn.Module, memory: DeviceMemory | None, world: World, accumulate: int = 1):
        self.memory, self.world, self.accumulate = memory, world, accumulate
        listed = model.checkpoint_blocks() if memory and hasattr(model, "checkpoint_blocks") else ()  # type: ignore[operator]
        self.blocks = [_Block(block) for block in listed]
        self._steps = 0
        for block in self.blocks:
            block.recompute()

    @property
    def recomputed(self) -> list[bool]:
        """Of each block."""
        return [block.recomputed for block in self.blocks]

    def after_step(self, look: bool) -> None:
        """To be called after each step, in all processes alike.

        Args:
            look: whether to look at the reserve, where the choice is made already; takes a message among processes.
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
        elif look:
            self._look(self.memory)

    def after_evaluation(self) -> None:
        """To be called after each evaluation, whose memory says nothing about that of training."""
        if self.memory is not None and self.blocks:
            self.memory.watch()

    def _choose(self, memory: DeviceMemory) -> None:
        found = self.world.gather([(memory.spare(), [-(-block.bytes // self.accumulate) for block in self.blocks])])
        for block, counts in zip(self.blocks, zip(*(counts for _, counts in found))):
            block.bytes = max(counts)
            block.keep()
        spare = min(spare for spare, _ in found)
        self._recompute(sum(block.bytes for block in self.blocks) - spare)
        memory.watch()

    def _look(self, memory: DeviceMemory) -> None:
        spare = memory.spare()
        low = self.world.sum([2 * spare < -memory.reserve])[0]  # a smaller message than what is left everywhere
        if low and not all(self.recomputed):
            self._recompute(-min(self.world.gather([spare])))
        memory.watch()

    def _recompute(self, missing: int) -> None:
        """Recompute the largest blocks until ``missing`` bytes are saved. Of equal ones the first: their backward pass
        comes last, when others have given their memory back."""
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
    """A block, and how its forward pass runs at present.

    Attributes:
        bytes: what it would keep, counted since :meth:`count`.
    """

    def __init__(self, module: nn.Module):
        self.module, self.forward = module, module.forward
        self.own = "forward" in vars(module)  # compiled, say
        self.recomputed, self.bytes = False, 0

    def keep(self) -> None:
        """As it was."""
        self.recomputed = False
        if self.own:
            self.module.forward = self.forward
        else:
            vars(self.module).pop("forward", None)

    def recompute(self) -> None:
        """Keep nothing but what goes in."""
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


def _recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not block.training:
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed


@torch.compiler.disable
def _kept_bytes(block: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Bytes that ``forward`` keeps besides weights and what goes in; random numbers stay as they are."""
    # Asked for here: under FSDP the whole weights are lent for the forward pass alone.
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


def _wrap_fairscale(block: nn.Module) -> None:
    try:
        from fairscale.nn.checkpoint import checkpoint_wrapper
    except ImportError as error:
        raise ConfigError(
            "run.activation_checkpointing is 'fairscale', which is not installed here: pip install fairscale, or use "
            "'torch', which needs nothing and gives the same gradients."
        ) from error
    checkpoint_wrapper(block)  # replaces the block's forward in place
