"""Work on CUDA that the host does not wait for: steps captured as graphs, all of its kernels started by one call, and
flags that are read later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Libraries set up workspaces when they are first called, which a capture must not see.
_WARM_UPS = 2


class CapturedSteps:
    """Steps of one owner, each a graph of its own in one memory pool.

    A step reads and writes tensors that stay where they are, asks the device nothing, and leaves nothing else behind:
    graphs that share a pool overwrite each other's intermediate results. Its first calls run uncaptured.

    Args:
        device: where the steps run; on another device than CUDA they are called as they are.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._enabled = device.type == "cuda"
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._calls: dict[Hashable, int] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._enabled else None

    def run(self, key: Hashable, step: Callable[[], None]) -> None:
        """Run ``step``; calls with one ``key`` do the same work on the same tensors."""
        if not self._enabled:
            step()
        elif key in self._graphs:
            self._graphs[key].replay()
        elif self._calls.get(key, 0) < _WARM_UPS:
            self._calls[key] = self._calls.get(key, 0) + 1
            self._beside(step)
        else:
            self._capture(key, step)

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        # torch's own for captures is one of the process, on the device that was current when it was made.
        return torch.cuda.Stream(self._device)

    def _beside(self, step: Callable[[], None]) -> None:
        """On the stream of captures."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)

    def _capture(self, key: Hashable, step: Callable[[], None]) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (a loader that pins memory, a watchdog of a process group) go on calling CUDA meanwhile.
            mode = "thread_local"
            with torch.cuda.device(self._device), torch.cuda.graph(graph, self._pool, self._stream, mode):
                step()
        except RuntimeError as error:
            self._enabled = False
            logger.warning("A decoding step could not be captured as a CUDA graph and runs without: %s", error)
            step()
        else:
            self._graphs[key] = graph
            graph.replay()


class LateFlags:
    """Flags of images on their way from the device, one request behind: the device computes while they travel.

    Args:
        device: where they come from.
    """

    def __init__(self, device: torch.device):
        self._device, self._cuda = device, device.type == "cuda"
        self._asked: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._order: list[int] | None = None

    def exchange(self, flags: Tensor) -> np.ndarray | None:
        """Ask for ``flags``; gives those of the last request, None without one."""
        last, order = self._asked, self._order
        here, event = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=self._cuda), None
        here.copy_(flags, non_blocking=True)
        if self._cuda:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))  # not of the current device, which may be another
        self._asked, self._order = (here, event), None
        if last is None:
            return None
        if last[1] is not None:
            last[1].synchronize()
        return last[0].numpy() if order is None else last[0].numpy()[order]

    def follow(self, order: list[int]) -> None:
        """Place i holds now what place ``order[i]`` held when the last request was made."""
        self._order = order
