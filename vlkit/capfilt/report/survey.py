"""What the tables of an output hold, in numbers; memory does not grow with the set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlkit.capfilt.decision import SOURCES, Decision
from vlkit.capfilt.tables import DIGITS

BINS = 1000
"""Of the scores: ITM from 0 to 1, ITC from -1 to 1."""
MOST_WORDS = 100
"""Longer texts count as this long."""
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
    """Adds up the tables of any number of shards.

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
        """Shares of the texts of each source, and of all images, that other thresholds would keep.

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
        """Whether the ITC similarity does not speak against a text."""
        if self.decision.itc_threshold is None:
            return missing | ~np.isnan(itc)
        return ~missing & (itc >= round(self.decision.itc_threshold, DIGITS))


def image_starts(part: Any) -> np.ndarray:
    """The first row of each image in a ``pyarrow.Table``; the rows of an image follow each other."""
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
