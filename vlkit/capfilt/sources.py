"""Reads what CapFilt is to work on, shard by shard: see :func:`find_inputs` and :func:`read_shard`."""

from __future__ import annotations

from vlkit.capfilt.inputs import REASONS, InputOptions, InputShard, Item, Refused

__all__ = ["REASONS", "InputOptions", "InputShard", "Item", "Refused"]
