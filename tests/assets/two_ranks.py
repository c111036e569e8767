"""Two processes that find each other, each on one thread, for what no command starts."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from tests.assets.waiting import LONG


def in_two_ranks(work: Callable[..., None], *arguments: Any) -> None:
    """Run ``work(rank, *arguments)``, a function of a module, with the variables of ``torchrun`` set."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    # Imports are slow; they are done once.
    context.set_forkserver_preload(["torch._dynamo", "vlkit.pipeline", "vlkit.runner.trainer", work.__module__])
    processes = [context.Process(target=_rank, args=(rank, port, work, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LONG)
    assert [process.exitcode for process in processes] == [0, 0]


def _rank(rank: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    work(rank, *arguments)
