"""Writes JSON that every parser reads: numbers that are not finite become null, never ``NaN`` or ``Infinity``."""

from __future__ import annotations

import json
import math
from typing import Any


def finite_or_none(content: Any) -> Any:
    """``content`` with None in place of numbers that are not finite.

    Tuples become lists; keys that are no text become the text that :func:`json.dumps` would write.
    """
    if isinstance(content, dict):
        return {_key(key): finite_or_none(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite_or_none(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def json_text(content: Any, indent: int | None = None) -> str:
    """``content`` as JSON, in ASCII.

    Args:
        content: plain data. Anything else (a date, a NumPy number) is written as its text.
        indent: spaces per level; None: one line.
    """
    return json.dumps(finite_or_none(content), indent=indent, allow_nan=False, default=str)


def _key(key: Any) -> Any:
    """JSON names members by texts; a float that is not finite would be named NaN by ``json.dumps``."""
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key
