"""Faults of single rows of annotation files: raised together, or collected where a run skips bad rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from vlkit.errors import DataError, did_you_mean

_SHOWN = 3
_KEYS = 10
LARGEST = 2**63 - 1
"""Largest number that can be the id of an image."""
Bad = tuple[str, str]
"""Position of something bad (``file:row``) and the reason."""
_collected: ContextVar[list[Bad] | None] = ContextVar("collected", default=None)


@contextlib.contextmanager
def collect_faults() -> Iterator[list[Bad]]:
    """Skip rows with faults instead of raising, and append them to the list that this yields.

    An experiment builds its datasets in this context, so that the faults of all files can be reported together, or the
    remaining rows be used for training.
    """
    found: list[Bad] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


class Faults:
    """Faults of the rows of one file, raised as one error or, inside :func:`collect_faults`, collected.

    Args:
        file: annotation file.
        unit: noun for a row in messages: "row", "line".
        need: a sentence that says what a row must have.
    """

    def __init__(self, file: Path, unit: str = "row", need: str = ""):
        self.file, self.unit, self.need = file, unit, need
        self.count = 0
        self.first: list[str] = []
        self._collected = _collected.get()

    def add(self, number: int, text: str) -> None:
        """Add the fault ``text``, a sentence, of row ``number``."""
        self.count += 1
        if self._collected is not None:
            self.unused(number, text)
        elif self.count <= _SHOWN:
            self.first.append(f"{self.unit} {number}: {text}")

    def unused(self, number: int, text: str) -> None:
        """Collect row ``number``, which is valid but useless for the reason ``text``; this never raises."""
        if self._collected is not None:
            kind = "" if self.unit in ("row", "line") else f"{self.unit} "
            self._collected.append((f"{self.file}:{kind}{number}", text))

    def raise_all(self) -> None:
        """Raise the added faults; nothing is raised where faults are collected.

        Raises:
            DataError: the first faults, and how many there are.
        """
        if self.count and self._collected is None:
            more = f" And {self.count - _SHOWN} more." if self.count > _SHOWN else ""
            raise DataError(f"{self.file}: {' '.join(self.first)}{more} {self.need} Correct or delete these.")

    def raise_where_empty(self, empty: bool) -> None:
        """Like :meth:`raise_all`, but also raise if the file holds no rows.

        Args:
            empty: whether no row was read, good or bad.

        Raises:
            DataError: either.
        """
        self.raise_all()
        if empty and not self.count:
            raise DataError(f"{self.file}: holds no rows. {self.need}")


def lacks(key: str, fields: Mapping[str, Any]) -> str:
    """Return a sentence: ``key`` is missing in ``fields``, which has these keys."""
    known = [repr(name) for name in fields][:_KEYS] + ["..."] * (len(fields) > _KEYS)
    return f"no key {key!r}, only {', '.join(known) or 'an empty mapping'}.{did_you_mean(key, fields)}"


def entry_fault(entry: Any, keys: Sequence[str]) -> str:
    """Return why ``entry`` is not a mapping with ``keys``, a sentence; or ""."""
    if not isinstance(entry, dict):
        return f"{short(entry)} is not a mapping."
    for key in keys:
        if key not in entry:
            return lacks(key, entry)
    return ""


def short(value: Any) -> str:
    """Return ``value`` and its type, shortened to a few words."""
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def listed(names: Sequence[Any]) -> str:
    """Return the first names of many: "a, b, c, ..."."""
    return f"{', '.join(map(str, names[:_SHOWN]))}{', ...' * (len(names) > _SHOWN)}"


def few(kind: str, places: Sequence[str]) -> str:
    """Return the number of things of one kind and the positions of the first: "2 images (a.json:1, a.json:7)"."""
    return f"{len(places)} {kind}{'s' * (len(places) > 1)} ({listed(places)})"


def image_id_fault(value: Any, key: str = "image_id") -> str:
    """Return why ``value`` cannot be the id of an image, a sentence; or "".

    An id is a text, or a whole number from 0 to 2**63 - 1: retrieval compares ids as 64-bit integers, and uses negative
    ones for itself.

    Args:
        key: its name in the message.
    """
    if type(value) is str:
        return "" if value else f"{key!r} is an empty text."
    if type(value) is not int:
        return f"{key!r} is {short(value)}, neither a whole number nor a text."
    if not 0 <= value <= LARGEST:
        return f"{key!r} is {short(value)}; a whole number from 0 to {LARGEST}, or a text, is needed."
    return ""


def printable(image_id: str) -> str:
    """Escape what is not valid Unicode in ``image_id``: bytes of a file name, halves of surrogate pairs."""
    return image_id.encode("utf-8", "backslashreplace").decode()
