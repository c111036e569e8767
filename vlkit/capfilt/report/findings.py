"""The content of a report, as numbers and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlkit.capfilt.output import NOT_READ, StoredOutput
from vlkit.capfilt.report.examples import Example
from vlkit.capfilt.report.survey import BINS, MOST_WORDS, Repeated, SourceSurvey, Survey

_THRESHOLDS = np.linspace(0, 1, 21)


@dataclass
class Findings:
    """Everything that the report shows.

    Args:
        output: the output folder.
        survey: of all tables.
        repeats: "web", "synthetic" and "images" to how often they occur.
        purity: shares of correct texts; empty where the scenes are unknown.
        drawn, border: examples.
    """

    output: StoredOutput
    survey: Survey
    repeats: dict[str, Repeated]
    purity: dict[str, float]
    drawn: list[Example]
    border: list[Example]

    @property
    def sources(self) -> dict[str, SourceSurvey]:
        """The sources that have texts."""
        return {name: each for name, each in self.survey.sources.items() if each.texts}


def numbers(found: Findings) -> dict[str, Any]:
    """Return all numbers of the report as plain data."""
    counts = found.output.counts
    at = found.survey.kept_at(_THRESHOLDS, counts.annotated)
    return {
        "lines": lines(found),
        "decision": asdict(found.output.decision),
        "shards": {"done": len(found.output.shards), "missing": found.output.missing},
        "counts": counts.as_dict(),
        "images_kept": counts.kept / max(counts.annotated, 1),
        **{f"{name}_kept": each.kept / each.texts for name, each in found.sources.items()},
        **found.purity,
        "kept_at_threshold": {
            "threshold": [round(float(x), 2) for x in _THRESHOLDS],
            **{name: [round(float(share), 6) for share in shares] for name, shares in at.items()},
        },
        "scores": {name: {"itm": _scores(s.itm, 0), "itc": _scores(s.itc, -1)} for name, s in found.sources.items()},
        "words": {name: {"all": _mean(s.words), "kept": _mean(s.kept_words)} for name, s in found.sources.items()},
        "repeated": {
            name: {"all": each.texts, "different": each.different, "share": each.share, "top": each.top}
            for name, each in found.repeats.items()
        },
    }


def lines(found: Findings) -> list[str]:
    """Return the main numbers in words, a few lines."""
    counts = found.output.counts
    images = f"{counts.annotated:,} images: {counts.kept:,} kept, {counts.dropped:,} dropped"
    images += f"; {counts.refused.total():,} refused" if counts.refused else ""
    kept = [f"{percent(each.kept / each.texts)} of the {name} texts" for name, each in found.sources.items()]
    said = [images + ".", f"Kept: {' and '.join(kept)}. The rule: {found.output.decision}."]
    right = found.purity
    if "purity_before" in right and "purity_after" in right:
        said.append(
            f"Correct: {percent(right['purity_before'])} of the web texts before, {percent(right['purity_after'])} of "
            f"the texts kept" + _by_source(right) + "."
        )
    if found.output.missing:
        said.append(f"The job is not finished: {found.output.missing:,} shards are missing here.")
    if not_read := found.output.record.get(NOT_READ):
        said.append(f"Not read in the folders of the input: {not_read}.")
    if not any(shard.has_images for shard in found.output.shards):
        said.append("No examples: images were not stored (run.output: scores).")
    return said


def percent(share: float) -> str:
    """Format a share with one decimal place."""
    return f"{100 * share:.1f}%"


def _by_source(right: dict[str, float]) -> str:
    after = [(name, right.get(f"{name}_correct_kept")) for name in ("web", "synthetic")]
    said = [f"{name} {percent(share)}" for name, share in after if share is not None]
    return f" ({', '.join(said)})" if len(said) > 1 else ""


def _scores(counts: np.ndarray, low: int) -> dict[str, float] | None:
    """Return mean and quartiles, as exact as the bins; None without scores."""
    if not counts.sum():
        return None
    width = (1 - low) / BINS
    middles = low + width * (np.arange(BINS) + 0.5)
    below = np.cumsum(counts) / counts.sum()
    quartiles = {
        name: middles[np.searchsorted(below, share)] for name, share in (("25%", 0.25), ("50%", 0.5), ("75%", 0.75))
    }
    found = {"mean": float((middles * counts).sum() / counts.sum()), **quartiles}
    return {name: round(float(value), 4) for name, value in found.items()}


def _mean(lengths: np.ndarray) -> float | None:
    """Return the mean number of words; None without texts."""
    total = lengths.sum()
    return round(float((np.arange(MOST_WORDS + 1) * lengths).sum() / total), 3) if total else None
