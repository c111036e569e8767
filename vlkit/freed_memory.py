"""Memory that was freed: what the C library of Linux does with it. Other systems have nothing to set."""

from __future__ import annotations

import ctypes
import sys
import time
from functools import cache
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)
# Seconds between two times of giving back: each costs milliseconds, and the pages have to be asked for again.
_EVERY = 1.0
_last = 0.0


def keep() -> None:
    """From now on this process keeps freed memory for its next large tensors.

    The library gives these back to the system at once, and the system hands them out again zeroed, page by page:
    200,000 page faults in a step of pre-training, about a twentieth of its time.
    """
    mallopt = getattr(_library(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def give_back() -> None:
    """Give all pages back to the system that hold nothing."""
    trim = getattr(_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def give_back_now_and_then() -> None:
    """:func:`give_back`, at most once a second: for loops that keep a little of each round, which would lie scattered
    among what was freed, so that memory in use stays the same and the process grows."""
    global _last
    if time.monotonic() - _last >= _EVERY:
        give_back()
        _last = time.monotonic()


@cache
def _library() -> Any:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
