"""What an image may be called: the ids that every task can use."""

from __future__ import annotations

from typing import Any

from vlkit.datasets.faults import short

LARGEST = 2**63 - 1


def image_id_fault(value: Any, key: str = "image_id") -> str:
    """Why ``value`` is no id of an image, a sentence; or "".

    An id is a text, or a whole number from 0 to 2**63 - 1: retrieval compares ids as 64-bit integers, of which negative
    ones have a meaning of their own.

    Args:
        key: what the message calls it.
    """
    if type(value) is str:
        return "" if value else f"{key!r} is an empty text."
    if type(value) is not int:
        return f"{key!r} is {short(value)}, neither a whole number nor a text."
    if not 0 <= value <= LARGEST:
        return f"{key!r} is {short(value)}; a whole number from 0 to {LARGEST}, or a text, is needed."
    return ""


def printable(image_id: str) -> str:
    """``image_id`` with what is no Unicode text (bytes of a file name, half of a surrogate pair) written out."""
    return image_id.encode("utf-8", "backslashreplace").decode()
