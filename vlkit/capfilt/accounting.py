"""Count every input once: written, or refused with a reason. Totals that do not add up raise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """Counts of the images and texts of one or more shards, by their result.

    Args:
        kept: images with at least one kept text.
        dropped: images without.
        refused: images that gave no output, by reason.
        web_scored, web_kept: texts that came with the images.
        web_refused: those that were missing or could not be used, by reason ("no image": their image was refused).
        web_unasked: those that the job does not score.
        synthetic, synthetic_kept: texts that the captioner wrote.
        fields_refused: samples that were used without their other data, by reason.
        members_refused: files of tars that are neither image nor text, by reason.
        shards: how many.
        damaged: shards that could not be read to their end, by reason.
    """

    kept: int = 0
    dropped: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    web_scored: int = 0
    web_kept: int = 0
    web_refused: Counter[str] = field(default_factory=Counter)
    web_unasked: int = 0
    synthetic: int = 0
    synthetic_kept: int = 0
    fields_refused: Counter[str] = field(default_factory=Counter)
    members_refused: Counter[str] = field(default_factory=Counter)
    shards: int = 0
    damaged: Counter[str] = field(default_factory=Counter)

    @property
    def annotated(self) -> int:
        """Images that were annotated."""
        return self.kept + self.dropped

    @property
    def read(self) -> int:
        """Images that the input holds, those that could not be used included."""
        return self.annotated + self.refused.total()

    @property
    def web(self) -> int:
        """Texts that the input holds, with one for each image that came without any."""
        return self.web_scored + self.web_refused.total() + self.web_unasked

    def add(self, other: Counts) -> None:
        """Count what ``other`` counted too."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Counter):
                mine.update(value)
            else:
                setattr(self, name, mine + value)

    def check(self, images: int, texts: int) -> None:
        """Check that the sums add up.

        Args:
            images, texts: that were met in the input, counted when they were read.

        Raises:
            RuntimeError: it does not; this is a mistake of vlkit.
        """
        sums = {
            f"{images} images were read, {self.read} came to an end": images == self.read,
            f"{texts} web texts were read, {self.web} came to an end": texts == self.web,
            "more web texts are kept than were scored": self.web_kept <= self.web_scored,
            "more synthetic texts are kept than were scored": self.synthetic_kept <= self.synthetic,
        }
        wrong = [text for text, right in sums.items() if not right]
        if wrong:
            raise RuntimeError(f"the counts do not add up: {'; '.join(wrong)}. {self}")

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as data of a manifest. ``images.read`` is kept + dropped + refused, and
        ``texts.web.read`` is scored + refused + unasked."""
        return {
            "images": {
                "read": self.read,
                "kept": self.kept,
                "dropped": self.dropped,
                "refused": _sorted(self.refused),
            },
            "texts": {
                "web": {
                    "read": self.web,
                    "scored": self.web_scored,
                    "kept": self.web_kept,
                    "refused": _sorted(self.web_refused),
                    "unasked": self.web_unasked,
                },
                "synthetic": {"scored": self.synthetic, "kept": self.synthetic_kept},
            },
            "fields": {"refused": _sorted(self.fields_refused)},
            "members": {"refused": _sorted(self.members_refused)},
            "shards": {"read": self.shards, "damaged": _sorted(self.damaged)},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Counts:
        """Read the result of :meth:`as_dict`."""
        images, web, synthetic = data["images"], data["texts"]["web"], data["texts"]["synthetic"]
        return cls(
            kept=images["kept"],
            dropped=images["dropped"],
            refused=Counter(images["refused"]),
            web_scored=web["scored"],
            web_kept=web["kept"],
            web_refused=Counter(web["refused"]),
            web_unasked=web["unasked"],
            synthetic=synthetic["scored"],
            synthetic_kept=synthetic["kept"],
            fields_refused=Counter(data["fields"]["refused"]),
            members_refused=Counter(data.get("members", {}).get("refused", {})),
            shards=data["shards"]["read"],
            damaged=Counter(data["shards"]["damaged"]),
        )


def total(parts: Iterable[Counts]) -> Counts:
    """Add up counts."""
    found = Counts()
    for part in parts:
        found.add(part)
    return found


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return {reason: counter[reason] for reason in sorted(counter)}
