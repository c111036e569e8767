"""Decide which texts of an image are kept, from the scores of the filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from vlkit.capfilt.tables import rounded
from vlkit.errors import ConfigError, did_you_mean
from vlkit.registry.bounds import Range, UnitInterval

SOURCES = ("web", "synthetic")
_CHOICES = ("both", *SOURCES)


class Scored(Protocol):
    """A text with what the filter says of it: source "web" or "synthetic"; ``itm``, probability that it matches its
    image, 0 to 1; ``itc``, cosine similarity, -1 to 1, or None where the filter has none. None stands for a score that
    is no finite number, too."""

    @property
    def text(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def itm(self) -> float | None: ...
    @property
    def itc(self) -> float | None: ...


@dataclass(frozen=True)
class Decision:
    """Decide which texts of an image are kept. Paper: 3.3.

    Scores and thresholds are compared as they are written, to six places, so that a table decides as the model's output
    did. A text that is empty or has a score that is not a number is never kept.

    Args:
        texts: the sources that are kept from; "web" alone is the paper's filter without captioner, "synthetic" alone
            takes captions for all images.
        threshold: least ITM probability, 0 to 1; None: any (the paper's captioner without filter).
        itc_threshold: least ITC similarity, -1 to 1, in addition to ``threshold``; None: any.

    Raises:
        ConfigError: a value that is not allowed.
    """

    texts: Literal["both", "web", "synthetic"] = "both"
    threshold: UnitInterval | None = 0.5
    itc_threshold: Annotated[float, Range(-1, 1)] | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.texts not in _CHOICES:
            problems.append(
                f"decision: texts is {self.texts!r}; allowed: {', '.join(_CHOICES)}."
                f"{did_you_mean(self.texts, _CHOICES)}"
            )
        problems += _out_of_range("threshold", self.threshold, 0, "an ITM probability")
        problems += _out_of_range("itc_threshold", self.itc_threshold, -1, "an ITC similarity")
        if problems:
            raise ConfigError(problems)

    def __str__(self) -> str:
        scores = (("an ITM probability", self.threshold), ("an ITC similarity", self.itc_threshold))
        asked = " and ".join(f"{score} of {least:g} or more" for score, least in scores if least is not None)
        texts = "all texts" if self.texts == "both" else f"{self.texts} texts"
        return f"{texts} with {asked}" if asked else texts

    def kept(self, texts: Sequence[Scored]) -> list[bool]:
        """Return whether each text is kept."""
        return [self._keeps(each) for each in texts]

    def captions(self, texts: Sequence[Scored]) -> list[str]:
        """Return the kept texts, each once: those of the web first, else in the given order."""
        kept = [each for each in texts if self._keeps(each)]
        return list(dict.fromkeys(each.text for each in sorted(kept, key=lambda each: each.source != "web")))

    def stricter_than(self, other: Decision) -> bool:
        """Return whether ``other`` keeps every text that this one keeps, for any scores."""
        return (
            other.texts in ("both", self.texts)
            and _at_least(self.threshold, other.threshold)
            and _at_least(self.itc_threshold, other.itc_threshold)
        )

    def _keeps(self, each: Scored) -> bool:
        return (
            self.texts in ("both", each.source)
            and bool(each.text.strip())
            and _reaches(each.itm, self.threshold)
            and ((each.itc is None and self.itc_threshold is None) or _reaches(each.itc, self.itc_threshold))
        )


def _out_of_range(name: str, value: Any, low: int, what: str) -> list[str]:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= 1):
        return []
    return [f"decision: {name} is {value!r}; allowed: {what} from {low} to 1, or null to keep any."]


def _at_least(value: float | None, other: float | None) -> bool:
    return other is None or (value is not None and value >= other)


def _reaches(score: float | None, threshold: float | None) -> bool:
    score, threshold = rounded(score), rounded(threshold)
    return score is not None and (threshold is None or score >= threshold)
