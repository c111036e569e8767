"""Shares of correct texts, where the images hold the scene that they show: those of the dataset ``shapes``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlkit.capfilt.decision import SOURCES
from vlkit.capfilt.output import DROPPED, KEPT, StoredImage, StoredShard
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
    """Return the shares of correct texts: a correct text makes a claim, and all of its claims are true of the scene.

    Returns:
        Nothing, if the first image has no scene; later images without one do not count. Else ``purity_before``: of
        the web texts; ``purity_after``: of all texts that are kept; ``web_correct``, ``web_correct_kept``,
        ``synthetic_correct``, ``synthetic_correct_kept``: of each source, all of them and the kept ones. What is a
        share of no texts is left out, and so is all but the kept ones where dropped images were not stored. Where no
        images were stored at all, scenes are those of the table.
    """
    tallies = {source: Tally() for source in SOURCES}
    if not _has_scenes(shards):
        return {}
    for shard in shards:
        for folder in _folders(shard):
            for image in shard.images(folder):
                _count(scene_of(image), image.record["texts"], tallies)
        if not shard.has_images:
            for row in _rows(shard):
                _count(_scene(row.get(FIELD)), [row], tallies)
    found = {}
    for source, tally in tallies.items():
        if tally.texts and all(shard.has_dropped or not shard.has_images for shard in shards):
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
    """Return whether the first image has a scene."""
    for shard in shards:
        for folder in _folders(shard):
            image = next(shard.some_images(folder), None)
            if image is not None:
                return scene_of(image) is not None
        row = None if shard.has_images else next(_rows(shard), None)
        if row is not None:
            return _scene(row.get(FIELD)) is not None
    return False


def _folders(shard: StoredShard) -> list[str]:
    return [KEPT] * shard.has_images + [DROPPED] * shard.has_dropped


def _rows(shard: StoredShard) -> Iterator[dict[str, Any]]:
    return (row for part in shard.table(None) for row in part.to_pylist())


def scene_of(image: StoredImage) -> Scene | None:
    """Return the scene of an image; None where its JSON holds none: the key may hold anything else."""
    return _scene(image.record.get(FIELD))


def _scene(given: Any) -> Scene | None:
    """Parse a scene from its mapping, or from the JSON text in a table."""
    try:
        return Scene.from_dict(json.loads(given) if isinstance(given, str) else given)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _count(scene: Scene | None, texts: Iterable[Mapping[str, Any]], tallies: dict[str, Tally]) -> None:
    if scene is not None:
        for text in texts:
            tallies[text["source"]].add(check(text["text"], scene).strict, text["kept"])
