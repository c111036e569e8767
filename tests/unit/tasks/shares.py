"""Evaluation in several processes, played by threads that meet in ``gather``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tests.assets.waiting import LONG
from vlkit.tasks.base import EvalContext


def context(gather: Callable[..., list[Any]] | None = None, rank: int = 0, folder: Path | None = None) -> EvalContext:
    lent = {"gather": gather} if gather is not None else {}
    return EvalContext(torch.device("cpu"), contextlib.nullcontext, rank=rank, output_dir=folder, **lent)


def evaluate_in_shares(work: Callable[[int, EvalContext], Any], count: int, folder: Path | None = None) -> list[Any]:
    """What each of ``count`` processes makes of ``work(rank, context)``."""
    barrier, given = threading.Barrier(count, timeout=LONG), [[] for _ in range(count)]

    def process(rank: int) -> Any:
        def gather(items: Sequence[Any]) -> list[Any]:
            given[rank] = list(items)
            barrier.wait()
            everything = [item for items in given for item in items]
            barrier.wait()
            return everything

        try:
            with torch.inference_mode():
                return work(rank, context(gather, rank, folder))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(process, range(count)))


def batches(samples: Sequence[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Collated samples of consecutive places."""
    from vlkit.datasets.base import collate

    return [collate(samples[begin : begin + size]) for begin in range(0, len(samples), size)]


def parts(samples: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Consecutive shares, as the runner's loader cuts them."""
    n = len(samples)
    return [samples[rank * n // count : (rank + 1) * n // count] for rank in range(count)]
