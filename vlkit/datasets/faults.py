"""What an image may be called: the ids that every task can use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from vlkit.errors import DataError, did_you_mean

_SHOWN = 3
_KEYS = 10
Bad = tuple[str, str]
"""Where something bad is (``file:row``), and why it is bad."""
_collected: ContextVar[list[Bad] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collect_faults() -> Iterator[list[Bad]]:
    """While entered, rows with faults do not raise: they are left out, and named in the list that this gives.

    An experiment builds its datasets so. All that is wrong with all rows can then be reported at once, or the other
    rows can be trained on.
    """
    found: list[Bad] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


class Faults:
    """Faults of single rows, to be raised as one error or, inside :func:`collect_faults`, collected.

    Args:
        file: where the rows are.
        unit: what a row is called: "row", "line".
        need: a sentence that says what a row must have.
    """

    def __init__(self, file: Path, unit: str = "row", need: str = ""):
        self.file, self.unit, self.need = file, unit, need
        self.count = 0
        self.first: list[str] = []
        self._collected = _collected.get()

    def add(self, number: int, text: str) -> None:
        """Row ``number`` has the fault ``text``, a sentence."""
        self.count += 1
        if self._collected is not None:
            self.unused(number, text)
        elif self.count <= _SHOWN:
            self.first.append(f"{self.unit} {number}: {text}")

    def unused(self, number: int, text: str) -> None:
        """Row ``number`` is right and of no use, for the reason ``text``: it is collected, but does not raise."""
        if self._collected is not None:
            kind = "" if self.unit in ("row", "line") else f"{self.unit} "
            self._collected.append((f"{self.file}:{kind}{number}", text))

    def raise_all(self) -> None:
        """Raise what was added, if anything; nothing is raised where faults are collected.

        Raises:
            DataError: the first faults, and how many there are.
        """
        if self.count and self._collected is None:
            more = f" And {self.count - _SHOWN} more." if self.count > _SHOWN else ""
            raise DataError(f"{self.file}: {' '.join(self.first)}{more} {self.need} Correct or delete these.")

    def raise_where_empty(self, empty: bool) -> None:
        """:meth:`raise_all`, or raise that the file holds no rows.

        Args:
            empty: whether no row was seen, good or bad.

        Raises:
            DataError: either.
        """
        self.raise_all()
        if empty and not self.count:
            raise DataError(f"{self.file}: holds no rows. {self.need}")


def lacks(key: str, fields: Mapping[str, Any]) -> str:
    """A sentence: ``key`` is not in ``fields``, which has these keys."""
    known = [repr(name) for name in fields][:_KEYS] + ["..."] * (len(fields) > _KEYS)
    return f"no key {key!r}, only {', '.join(known) or 'an empty mapping'}.{did_you_mean(key, fields)}"


def short(value: Any) -> str:
    """``value`` and its type, cut to a few words."""
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


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
