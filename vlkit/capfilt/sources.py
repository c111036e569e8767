"""Reads what CapFilt is to work on: the shards of an input, and what each of them holds."""

from __future__ import annotations

from collections.abc import Iterator

from vlkit.capfilt.fetching import local_copy, reason
from vlkit.capfilt.finding import Inputs, find_all, find_inputs
from vlkit.capfilt.inputs import REASONS, InputOptions, InputShard, Item, Refused
from vlkit.capfilt.row_reading import read_rows
from vlkit.capfilt.tar_reading import read_tar

__all__ = ["REASONS", "InputOptions", "InputShard", "Inputs", "Item", "Refused", "find_all", "find_inputs"]
__all__ += ["read_shard"]


def read_shard(shard: InputShard, options: InputOptions) -> Iterator[Item | Refused]:
    """Everything that a shard holds, in its order; equal files give equal results.

    Whatever a file holds, nothing is raised: what cannot be used is given as :class:`Refused`. A shard that lies
    elsewhere is copied to this machine first.

    Args:
        shard: one of those that :func:`find_inputs` gives.
        options: those that it was found with.

    Raises:
        VlkitError: this machine has no room for the copy, or lacks the package that reads it.
    """
    if shard.kind == "rows":
        yield from read_rows(shard, options)
        return
    try:
        with local_copy(shard.path) as file:
            yield from read_tar(shard.name, file, options)
    except OSError as error:
        yield Refused(shard.name, "shard", "unreadable shard", reason(error))
