"""Momentum encoders and the queues of their features (paper, section 3.2, after MoCo and ALBEF)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from vlkit.models.packing import Segments, TextBatch


def momentum_copy(module: nn.Module) -> nn.Module:
    """Copy ``module`` without gradients."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def update_momentum(pairs: Sequence[tuple[nn.Module, nn.Module]], momentum: float) -> None:
    """Move each second module towards its first: ``m <- momentum * m + (1 - momentum) * p``, in a few kernels."""
    online = [_own_part(p) for module, _ in pairs for p in module.parameters()]
    slow = [_own_part(p) for _, module in pairs for p in module.parameters()]
    torch._foreach_lerp_(slow, online, 1 - momentum)


def _own_part(parameter: Tensor) -> Tensor:
    """Return the part of a weight that this process holds: under FSDP a shard, the same of both modules."""
    parameter = parameter.detach()
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def random_queue(width: int, size: int) -> Tensor:
    """Create a queue of random columns of unit length, [width, size]."""
    return F.normalize(torch.randn(width, size), dim=0)


@torch.no_grad()
def enqueue(queues: Sequence[tuple[Tensor, Tensor]], pointer: Tensor) -> None:
    """Overwrite the oldest entries of ring queues.

    Args:
        queues: pairs of a queue [E, Q] (or [1, Q]) and new entries [n, E] (or [n]); any n and Q, all queues in step.
        pointer: [1] int64 next place to write; is updated.
    """
    size = queues[0][0].shape[1]
    count = len(queues[0][1])
    kept = min(count, size)  # a batch larger than the queue: only its newest part can stay
    if not kept:
        return
    place = int(pointer)
    first = (place + count - kept) % size
    wrap = max(first + kept - size, 0)
    for queue, entries in queues:
        columns = entries[count - kept :].reshape(kept, -1).T.to(queue.dtype)
        queue[:, first : first + kept - wrap] = columns[:, : kept - wrap]
        if wrap:
            queue[:, :wrap] = columns[:, kept - wrap :]
    pointer.fill_((place + count) % size)


def world_size() -> int:
    """Return the number of processes of the run; 1 outside of ``torchrun``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def gather_batch(x: Tensor) -> Tensor:
    """Gather ``x`` [B, ...] of all W processes in rank order, [W * B, ...], without gradient; B is the same in all."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """Gather the batches of all processes; the gradient of a batch is the sum of those of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = len(x)
        return gather_batch(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[rank() * ctx.size : (rank() + 1) * ctx.size]


def gather_with_gradient(x: Tensor) -> Tensor:
    """Gather as :func:`gather_batch`, with a gradient to the process that ``x`` came from.

    Losses are means over the batch of a process and gradients are averaged over processes, so the sum is what a single
    process would compute.
    """
    return x if world_size() == 1 else _Gather.apply(x)


@torch.no_grad()
def gather_texts(texts: TextBatch) -> TextBatch:
    """Gather the texts of all processes in rank order; all have the same number of texts."""
    if world_size() == 1:
        return texts
    lengths = gather_batch(torch.tensor(texts.lengths, device=texts.ids.device))
    segments = Segments(texts.lengths, texts.ids.device)
    padded = segments.pad(texts.ids)
    padded = gather_batch(F.pad(padded, (0, int(lengths.max()) - padded.shape[1])))
    keep = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
    return TextBatch(padded[keep], tuple(lengths.tolist()))
