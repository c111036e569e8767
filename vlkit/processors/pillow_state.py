"""Pillow's global limit and Python's warning filters, lifted while vlkit decodes and restored afterwards."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_lock = threading.Lock()
_inside = 0
_limit: int | None = None
_filters: warnings.catch_warnings | None = None


@contextmanager
def pillow_without_limits() -> Iterator[None]:
    """No warning and no limit of Pillow's inside: odd metadata and large sizes are judged by vlkit.

    Threads may overlap: the first one that enters saves what is global, the last one that leaves restores it.
    """
    global _inside, _limit, _filters
    with _lock:
        _inside += 1
        if _inside == 1:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                if Image.MAX_IMAGE_PIXELS is None:  # otherwise somebody set it meanwhile
                    Image.MAX_IMAGE_PIXELS = _limit
                if _filters is not None:
                    _filters.__exit__(None, None, None)
                _filters = None
