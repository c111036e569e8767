"""Counts how often texts occur in a set that is larger than memory."""

from __future__ import annotations

import heapq
import json
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from vlkit.io.json_writer import json_text

_PART = 500_000  # texts that are counted at once: some 100 MB
_MOST_PARTS = 200  # files that are open at once


@dataclass(frozen=True)
class Repeated:
    """How often texts occur.

    Args:
        texts: all of them.
        different: how many are left if each is taken once.
        top: those that occur most often, more than once, with how often.
    """

    texts: int
    different: int
    top: list[tuple[str, int]]

    @property
    def share(self) -> float:
        """Of the texts, those that stand elsewhere already."""
        return 1 - self.different / self.texts if self.texts else 0.0


class Repeats:
    """Counts exactly with bounded memory: a large set is first distributed over temporary files by a hash, so that
    equal texts meet in one file, and then counted file by file.

    Args:
        expected: about how many texts will be added.
    """

    def __init__(self, expected: int, part: int = _PART):
        self._here: Counter[str] = Counter()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: list[IO[str]] = []
        parts = min(-(-expected // part), _MOST_PARTS)
        if parts > 1:
            self._folder = tempfile.TemporaryDirectory(prefix="vlkit-")
            names = [Path(self._folder.name) / str(number) for number in range(parts)]
            self._files = [open(name, "w+", encoding="utf-8") for name in names]  # noqa: SIM115

    def __enter__(self) -> Repeats:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files:
            file.close()
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, texts: Iterable[str]) -> None:
        """Count these too."""
        if not self._files:
            self._here.update(texts)
            return
        for text in texts:
            number = zlib.crc32(text.encode("utf-8", "surrogatepass")) % len(self._files)
            self._files[number].write(json_text(text) + "\n")

    def count(self, most: int) -> Repeated:
        """What was added so far, with the ``most`` most frequent."""
        texts, different, top = 0, 0, list[tuple[int, str]]()
        for counter in self._counters():
            texts += counter.total()
            different += len(counter)
            found = ((-times, text) for text, times in counter.items() if times > 1)
            top = heapq.nsmallest(most, [*top, *heapq.nsmallest(most, found)])
        return Repeated(texts, different, [(text, -times) for times, text in top])

    def _counters(self) -> Iterator[Counter[str]]:
        if not self._files:
            yield self._here
        for file in self._files:
            file.seek(0)
            yield Counter(json.loads(line) for line in file)
            file.seek(0, 2)
