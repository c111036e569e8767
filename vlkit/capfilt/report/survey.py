"""Counts over the tables of an output in bounded memory: scores, lengths, and repeated texts."""

from __future__ import annotations

import heapq
import json
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from vlkit.capfilt.decision import SOURCES, Decision
from vlkit.capfilt.tables import DIGITS
from vlkit.io.json import json_text

BINS = 1000
"""Of the scores: ITM from 0 to 1, ITC from -1 to 1."""
MOST_WORDS = 100
"""Longer texts count as this long."""
_PART = 500_000  # texts that are counted at once: some 100 MB
_MOST_PARTS = 200  # files that are open at once
COLUMNS = ("index", "source", "text", "itm", "itc", "kept", "image")


class SourceSurvey:
    """The texts of one source.

    Attributes:
        texts, kept: how many.
        itm, itc: [BINS] texts by score. Scores that are missing are in neither.
        eligible: [BINS] texts by ITM probability that all of the decision but its threshold would keep.
        words, kept_words: [MOST_WORDS + 1] texts by length.
    """

    def __init__(self) -> None:
        self.texts, self.kept = 0, 0
        self.itm, self.itc, self.eligible = (np.zeros(BINS, np.int64) for _ in range(3))
        self.words, self.kept_words = (np.zeros(MOST_WORDS + 1, np.int64) for _ in range(2))

    def add(self, itm: np.ndarray, itc: np.ndarray, eligible: np.ndarray, words: np.ndarray, kept: np.ndarray) -> None:
        """Count texts.

        Args:
            itm, itc: [n] scores; NaN: there is none.
            eligible: [n] whether only the threshold decides.
            words: [n] lengths.
            kept: [n].
        """
        self.texts += len(itm)
        self.kept += int(kept.sum())
        self.itm += binned(itm, 0)
        self.itc += binned(itc, -1)
        self.eligible += binned(itm[eligible], 0)
        self.words += np.bincount(words, minlength=MOST_WORDS + 1)
        self.kept_words += np.bincount(words[kept], minlength=MOST_WORDS + 1)


class Survey:
    """Add up the tables of any number of shards.

    Args:
        decision: that the output was made with.
    """

    def __init__(self, decision: Decision):
        self.decision = decision
        self.sources = {source: SourceSurvey() for source in SOURCES}
        self.images = np.zeros(BINS, np.int64)
        """Images by the best ITM probability of the texts that the decision could keep."""

    def add(self, part: Any) -> None:
        """Count the rows of a ``pyarrow.Table`` with :data:`COLUMNS` and only whole images."""
        texts: Sequence[str] = part["text"].to_pylist()
        words = np.array([min(len(text.split()), MOST_WORDS) for text in texts], np.int64)
        scores = {name: part[name].to_numpy().astype(np.float64) for name in ("itm", "itc")}
        itm, itc = (np.round(scores[name], DIGITS) for name in ("itm", "itc"))
        kept, source = part["kept"].to_numpy(), np.array(part["source"].to_pylist())
        eligible = (words > 0) & ~np.isnan(itm) & self._similar(itc, part["itc"].is_null().to_numpy())
        for name, survey in self.sources.items():
            mine = source == name
            survey.add(itm[mine], itc[mine], eligible[mine], words[mine], kept[mine])
        if self.decision.texts != "both":
            eligible &= source == self.decision.texts
        self.images += binned(np.maximum.reduceat(np.where(eligible, itm, -1.0), image_starts(part)), 0)

    def kept_at(self, thresholds: np.ndarray, images: int) -> dict[str, np.ndarray]:
        """Return the shares of texts of each source, and of all images, that other thresholds would keep.

        Args:
            thresholds: multiples of 1 / BINS from 0 to 1.
            images: all that were annotated, those without a text included.
        """
        first = np.round(thresholds * BINS).astype(int)
        found = {}
        for name, survey in self.sources.items():
            if survey.texts:
                found[name] = _from(survey.eligible)[first] / survey.texts
        return found | {"images": _from(self.images)[first] / max(images, 1)}

    def _similar(self, itc: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """Return whether the ITC similarity allows a text."""
        if self.decision.itc_threshold is None:
            return missing | ~np.isnan(itc)
        return ~missing & (itc >= round(self.decision.itc_threshold, DIGITS))


def image_starts(part: Any) -> np.ndarray:
    """Return the first row of each image in a ``pyarrow.Table``; the rows of an image are adjacent."""
    return np.flatnonzero(np.diff(part["index"].to_numpy(), prepend=-1))


def binned(scores: np.ndarray, low: int) -> np.ndarray:
    """[BINS] how many of ``scores`` are in each bin from ``low`` to 1; a bin includes its lower end, the last both.

    Scores outside, and those that are not numbers, are in none.
    """
    units = np.round(scores[(scores >= low) & (scores <= 1)] * 10**DIGITS).astype(np.int64)
    width = (1 - low) * 10**DIGITS // BINS
    return np.bincount(np.minimum((units - low * 10**DIGITS) // width, BINS - 1), minlength=BINS)


def _from(counts: np.ndarray) -> np.ndarray:
    """[BINS + 1] how many are in each bin or above it; the last bin holds 1 itself, so it stands for both ends."""
    above = np.cumsum(counts[::-1])[::-1]
    return np.append(above, above[-1])


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
        """Share of the texts that repeat another."""
        return 1 - self.different / self.texts if self.texts else 0.0


class Repeats:
    """Count exactly with bounded memory: a large set is first distributed over temporary files by a hash, so that
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
        """Count the texts that were added, and find the ``most`` most frequent."""
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
