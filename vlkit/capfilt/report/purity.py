"""How many texts are correct, where the images know what they show: scenes of the world ``shapes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlkit.capfilt.decision import SOURCES
from vlkit.capfilt.stored import DROPPED, KEPT, StoredImage, StoredShard
from vlkit.datasets.shapes.checker import check
from vlkit.datasets.shapes.scene import Scene

FIELD = "scene"
"""Key of an image's JSON under which its scene is."""


@dataclass
class Tally:
    """Texts and those of them that are correct, of all and of the kept ones."""

    texts: int = 0
    correct: int = 0
    kept: int = 0
    kept_correct: int = 0

    def add(self, correct: bool, kept: bool) -> None:
        """Count one text."""
        self.texts += 1
        self.correct += correct
        self.kept += kept
        self.kept_correct += correct and kept


def purity(shards: Sequence[StoredShard]) -> dict[str, float]:
    """Shares of correct texts: every claim of such a text is true of the scene, and it makes one.

    Returns:
        Nothing, if the first image has no scene; later images without one do not count. Else ``purity_before``: of
        the web texts; ``purity_after``: of all texts that are kept; ``web_correct``, ``web_correct_kept``,
        ``synthetic_correct``, ``synthetic_correct_kept``: of each source, all of them and the kept ones. What is a
        share of no texts is left out, and so is all but the kept ones where dropped images were not stored.
    """
    tallies = {source: Tally() for source in SOURCES}
    if not _has_scenes(shards):
        return {}
    for shard in shards:
        for folder in (KEPT, DROPPED) if shard.has_dropped else (KEPT,):
            for image in shard.images(folder):
                _count(image, tallies)
    found = {}
    for source, tally in tallies.items():
        if tally.texts and all(shard.has_dropped for shard in shards):
            found[f"{source}_correct"] = tally.correct / tally.texts
        if tally.kept:
            found[f"{source}_correct_kept"] = tally.kept_correct / tally.kept
    if "web_correct" in found:
        found["purity_before"] = found["web_correct"]
    kept = sum(tally.kept for tally in tallies.values())
    if kept:
        found["purity_after"] = sum(tally.kept_correct for tally in tallies.values()) / kept
    return found


def _has_scenes(shards: Sequence[StoredShard]) -> bool:
    """Whether the first image that is stored has one."""
    for shard in shards:
        for folder in (KEPT, DROPPED) if shard.has_dropped else (KEPT,):
            image = next(shard.some_images(folder), None)
            if image is not None:
                return scene_of(image) is not None
    return False


def scene_of(image: StoredImage) -> Scene | None:
    """What the image shows; None where its JSON does not say it: the key may hold anything else there."""
    try:
        return Scene.from_dict(image.record[FIELD])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _count(image: StoredImage, tallies: dict[str, Tally]) -> None:
    scene = scene_of(image)
    if scene is not None:
        for text in image.record["texts"]:
            tallies[text["source"]].add(check(text["text"], scene).strict, text["kept"])
