"""Peak memory of one piece of work."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
# Counters of resident pages are brought up to date in lots of pages, a lot per thread.
_SLACK_MIB = 8.0

# Larger blocks are mapped on their own, and so are never kept.
_RETURN = {"MALLOC_MMAP_THRESHOLD_": "8192", "MALLOC_TRIM_THRESHOLD_": "8192"}
T = TypeVar("T")


def measure_peak(run: Callable[[], Any]) -> tuple[Any, float | None]:
    """What ``run`` returns, and the most memory in MiB that was in use while it ran, over what was in use before.

    On CUDA (once this process has tensors there) these are bytes of tensors, ``torch.cuda.max_memory_allocated``. Else
    they are resident pages of this process: the kernel's high-water mark, which is set back before the run, after the
    allocator has returned what it holds unused. What a first run leaves behind (packed weights, say) is part of it,
    and pages that the allocator could not return are not seen. None where the kernel has no such mark: other systems
    than Linux, and containers that forbid to set it back.
    """
    if on_cuda():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        output = run()
        return output, (torch.cuda.max_memory_allocated() - before) / MIB
    start = _set_back()
    output = run()
    return output, None if start is None else max(0.0, _field("VmHWM") - start)


def resident() -> float | None:
    """MiB that are resident now, without what the allocator holds unused; None where the system does not tell."""
    try:
        _trim()
        return _field("VmRSS")
    except (OSError, ValueError):
        return None


def where_freed_is_returned(run: Callable[..., T], *arguments: Any) -> T:
    """What ``run(*arguments)`` returns in a new process, whose allocator (the GNU C library's) gives each freed block
    back to the system, so that resident pages are memory in use and not room that it keeps between blocks. Slower.

    Args:
        run: a function of a module; what it gets and gives can be pickled.
    """
    before = {name: os.environ.get(name) for name in _RETURN}
    os.environ.update(_RETURN)  # read when a process starts
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context, torch.set_num_threads, (torch.get_num_threads(),)) as pool:
            return pool.submit(run, *arguments).result()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def on_cuda() -> bool:
    """Whether this process has tensors on a GPU."""
    return torch.cuda.is_available() and torch.cuda.is_initialized() and torch.cuda.memory_allocated() > 0


def _set_back() -> float | None:
    """Set the high-water mark to what is resident now, and say what that is."""
    if not _CLEAR.exists():
        return None
    try:
        _trim()
        _CLEAR.write_text(_RESET_PEAK)
        now = _field("VmRSS")
        return now if _field("VmHWM") <= now + _SLACK_MIB else None
    except (OSError, ValueError):
        return None


def _trim() -> None:
    """Return freed pages to the system."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _field(name: str) -> float:
    """A line of the process's status, in MiB."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {name} in {_STATUS}")
