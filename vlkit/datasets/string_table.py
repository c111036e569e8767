"""Lists of strings that worker processes share.

A list of Python strings is copied into every forked worker bit by bit: each access counts a reference, which writes
to the page of memory. A flat buffer is only read, and goes to a spawned worker in one piece.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable


class PackedStrings:
    """Strings in one buffer of bytes, and where each ends.

    Args:
        texts: any str, half surrogate pairs included (file names that are no UTF-8 have them).
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
