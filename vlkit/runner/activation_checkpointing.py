"""Activation checkpointing: blocks are computed again in the backward pass instead of remembered."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from vlkit.errors import ConfigError, did_you_mean

KINDS = ("none", "torch", "fairscale")


def checkpoint_activations(model: nn.Module, kind: str) -> None:
    """Let the blocks that ``model.checkpoint_blocks()`` lists be recomputed; state-dict names stay.

    Gradients are the same to the bit. ``torch`` is the non-reentrant kind and works everywhere; ``fairscale``
    is what the original BLIP used, and fails under DDP that looks for unused parameters.

    Raises:
        ConfigError: no such kind, the model lists no blocks, or fairscale is not installed.
    """
    if kind == "none":
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
    wrap = _wrap_torch if kind == "torch" else _wrap_fairscale
    for block in model.checkpoint_blocks():  # type: ignore[operator]
        wrap(block)


def _wrap_torch(block: nn.Module) -> None:
    forward = block.forward

    @functools.wraps(forward)
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not block.training:
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    block.forward = recomputed


def _wrap_fairscale(block: nn.Module) -> None:
    try:
        from fairscale.nn.checkpoint import checkpoint_wrapper
    except ImportError as error:
        raise ConfigError(
            "run.activation_checkpointing is 'fairscale', which is not installed here: pip install fairscale, or use "
            "'torch', which needs nothing and gives the same gradients."
        ) from error
    checkpoint_wrapper(block)  # replaces the block's forward in place
