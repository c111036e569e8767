"""Made-up memory of a device, for automatic activation checkpointing on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vlkit.runner.activation_checkpointing import AutoCheckpointing
from vlkit.runner.distributed import World


class FakeMemory:
    """What is left while all blocks are recomputed, and what the kept ones then take of it.

    Args:
        room: bytes left above the reserve.
        reserve: bytes that are planned to stay free.
    """

    def __init__(self, room: float, reserve: int = 0):
        self.room, self.reserve, self.watched = room, reserve, 0
        self.user: AutoCheckpointing | None = None

    def watch(self) -> None:
        self.watched += 1

    def spare(self) -> int:
        blocks = self.user.blocks if self.user else []
        return int(self.room) - sum(block.bytes for block in blocks if not block.recomputed)


def auto_checkpointing(
    model: nn.Module, memory: FakeMemory, grad_accum_steps: int = 1, world: World | None = None
) -> AutoCheckpointing:
    """Of a process that has this memory."""
    memory.user = AutoCheckpointing(model, memory, world or World(), grad_accum_steps)
    return memory.user


class Stack(nn.Module):
    """Blocks with dropout; all but the last two are used twice.

    Args:
        widths: of the blocks.
    """

    def __init__(self, widths: Sequence[int] = (24, 8, 16, 8)):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Dropout(0.3), nn.Linear(width, 8)) for width in widths
        )

    def checkpoint_blocks(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 8] -> loss."""
        for block in [*self.blocks[:-2], *self.blocks]:
            x = x + block(x)
        return x.square().mean()


def sizes(rows: int) -> list[int]:
    """Bytes that the blocks of a stack keep: what goes into GELU, the noise of dropout, what goes into the second
    product; weights and what goes into the block are there anyway."""
    return [calls * 3 * rows * width * 4 for width, calls in ((24, 2), (8, 2), (16, 1), (8, 1))]
