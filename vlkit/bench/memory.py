"""Peak memory of one piece of work."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
# Counters of resident pages are brought up to date in lots of pages, a lot per thread.
_SLACK_MIB = 8.0

# M_MMAP_THRESHOLD of mallopt(3): larger blocks are mapped on their own, and so are never kept.
_MMAP_THRESHOLD, _SMALL_BLOCK, _LARGEST_THRESHOLD = -3, 2**16, 2**25


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
        _return_unused()
        return _field("VmRSS")
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def returned_at_once() -> Iterator[bool]:
    """Within it the allocator gives each freed block back to the system, so that resident pages are memory in use and
    not room that it keeps between blocks. Slower; whether this allocator can do it (the GNU C library's)."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield False
        return
    try:
        yield bool(set_option(_MMAP_THRESHOLD, _SMALL_BLOCK))
    finally:
        set_option(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)  # where it would have drifted to by itself


def on_cuda() -> bool:
    """Whether this process has tensors on a GPU."""
    return torch.cuda.is_available() and torch.cuda.is_initialized() and torch.cuda.memory_allocated() > 0


def _set_back() -> float | None:
    """Set the high-water mark to what is resident now, and say what that is."""
    if not _CLEAR.exists():
        return None
    try:
        _return_unused()
        _CLEAR.write_text(_RESET_PEAK)
        now = _field("VmRSS")
        return now if _field("VmHWM") <= now + _SLACK_MIB else None
    except (OSError, ValueError):
        return None


def _return_unused() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)


def _field(name: str) -> float:
    """A line of the process's status, in MiB."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {name} in {_STATUS}")
