"""Made-up memory of a device, for activation checkpointing by need on a CPU."""

from __future__ import annotations

from torch import nn

from vlkit.runner.activation_checkpointing import ByNeed
from vlkit.runner.distributed import World


class Room:
    """What is left while all blocks are recomputed, and what the kept ones then take of it.

    Args:
        room: bytes left above the reserve.
        reserve: bytes that are planned to stay free.
    """

    def __init__(self, room: float, reserve: int = 0):
        self.room, self.reserve, self.watched = room, reserve, 0
        self.by_need: ByNeed | None = None

    def watch(self) -> None:
        self.watched += 1

    def spare(self) -> int:
        blocks = self.by_need.blocks if self.by_need else []
        return int(self.room) - sum(block.bytes for block in blocks if not block.recomputed)


def by_need(model: nn.Module, memory: Room, accumulate: int = 1, world: World | None = None) -> ByNeed:
    """Of a process that has this memory."""
    memory.by_need = ByNeed(model, memory, world or World(), accumulate)
    return memory.by_need
