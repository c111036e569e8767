"""Flat arrays of strings and of row positions, which worker processes share.

A list of Python strings is gradually copied into every forked worker: each access counts a reference, which writes to
the page of memory. A flat buffer is only read, and is sent to a spawned worker in one piece.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple


class Source(NamedTuple):
    """Rows of one annotation file.

    Args:
        name: of the file in sample ids.
        folder: prefix of the names of its images or videos; may be empty.
        rows: of the file.
    """

    name: str
    folder: str
    rows: Iterable[Any]


class PackedStrings:
    """A list of strings in one buffer of bytes, with the end of each.

    Args:
        texts: any str, including halves of surrogate pairs (in file names that are not UTF-8).
    """

    def __init__(self, texts: Iterable[str] = ()):
        self._bytes, self._ends = bytearray(), array("q", [0])
        for text in texts:
            self.append(text)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._ends[index], self._ends[index + 1]
        return self._bytes[start:end].decode("utf-8", "surrogatepass")

    def append(self, text: str) -> None:
        """Add ``text`` at the end."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))


class RowOffsets:
    """Positions in annotation files: file, row, and the part of a row that holds several texts."""

    def __init__(self) -> None:
        self._files, self._rows, self._parts = array("i"), array("i"), array("i")

    def add(self, file: int, row: int, part: int = 0) -> None:
        """Append a position: number of the file from 0, row from 1, part from 1 (0: the row has no parts)."""
        self._files.append(file)
        self._rows.append(row)
        self._parts.append(part)

    def show(self, index: int, files: list[str]) -> str:
        """Return ``file:row`` or ``file:row.part``."""
        part = self._parts[index]
        return f"{files[self._files[index]]}:{self._rows[index]}" + (f".{part}" if part else "")
