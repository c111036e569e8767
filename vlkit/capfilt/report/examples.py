"""Example images: some drawn from the whole set, and those whose texts are nearest to the threshold."""

from __future__ import annotations

import base64
import heapq
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vlkit.capfilt.decision import SOURCES, Decision
from vlkit.capfilt.output import DROPPED, KEPT, StoredImage, StoredShard
from vlkit.capfilt.report.survey import image_starts
from vlkit.errors import BadSample, DataError
from vlkit.processors.open_image import open_image

logger = logging.getLogger(__name__)
THUMBNAIL = 192  # pixels
_LARGE = 12_000  # bytes
_SHARDS = 8  # that examples come from: on a slow store, finding an image costs as much as reading its shard


@dataclass(frozen=True)
class Example:
    """An image with its texts.

    Args:
        shard: that it is in.
        key: of the sample.
        thumbnail: at most THUMBNAIL pixels wide and high.
        texts: as in the image's JSON: text, source, itm, itc, log_prob, kept.
        border: which of the texts is near the threshold; None: the image was drawn.
    """

    shard: str
    key: str
    thumbnail: Image.Image
    texts: list[dict[str, Any]]
    border: int | None = None

    def data_url(self) -> str:
        """Return the thumbnail as an address that holds it: PNG, or JPEG where PNG would be large."""
        file, kind = io.BytesIO(), "png"
        self.thumbnail.save(file, "PNG")
        if file.tell() > _LARGE:
            file, kind = io.BytesIO(), "jpeg"
            self.thumbnail.save(file, "JPEG", quality=85)
        return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True, order=True)
class _Candidate:
    rank: float | str
    shard: int
    key: str
    folder: str
    text: str
    source: str


class ExamplePicker:
    """Choose examples while tables are read, then load them.

    Args:
        decision: its threshold is the border: that of ITM, or of ITC if there is none of ITM.
        shards: of the output; a few, spread over all, are chosen from.
        count: examples of each kind: drawn ones, and ones at the border.
    """

    def __init__(self, decision: Decision, shards: Sequence[StoredShard], count: int):
        self.shards, self.count = shards, count
        places = np.linspace(0, len(shards) - 1, min(len(shards), _SHARDS)).round().astype(int) if shards else []
        self._open = {int(place) for place in places}
        self._score = "itm" if decision.threshold is not None or decision.itc_threshold is None else "itc"
        self._border = decision.threshold if decision.threshold is not None else decision.itc_threshold
        self._drawn: list[_Candidate] = []
        sources = SOURCES if decision.texts == "both" else (decision.texts,)
        self._near: dict[tuple[str, bool], list[_Candidate]] = {(s, k): [] for s in sources for k in (True, False)}

    def add(self, place: int, part: Any) -> None:
        """Consider the rows of a table of shard ``place``: a ``pyarrow.Table`` of whole images."""
        if place not in self._open or not self.count:
            return
        starts, kept = image_starts(part), part["kept"].to_numpy()
        image = np.searchsorted(starts, np.arange(len(kept)), side="right") - 1  # of each row
        image_kept = np.logical_or.reduceat(kept, starts)[image]
        shard = self.shards[place]
        stored = (image_kept & shard.has_images) | shard.has_dropped

        def candidate(rank: float | str, row: int) -> _Candidate:
            key, text, source = (part[name][row].as_py() for name in ("key", "text", "source"))
            return _Candidate(rank, place, key, KEPT if image_kept[row] else DROPPED, text, source)

        self._draw(part["image"], starts[stored[starts]], candidate)
        if self._border is not None:
            distance = np.abs(part[self._score].to_numpy().astype(np.float64) - self._border)
            source = np.array(part["source"].to_pylist())
            for (name, stays), near in self._near.items():
                rows = np.flatnonzero((source == name) & (kept == stays) & stored & ~np.isnan(distance))
                nearest = rows[np.argsort(distance[rows], kind="stable")[: self.count]]
                new = [candidate(float(distance[row]), int(row)) for row in nearest]
                near[:] = heapq.nsmallest(self.count, [*near, *new])

    def _draw(self, hashes: Any, rows: np.ndarray, candidate: Callable[[str, int], _Candidate]) -> None:
        """Choose the images with the least hashes: these are as good as random numbers, and the same in every call."""
        ranked = zip(hashes.take(rows).to_pylist(), rows.tolist())
        found = [candidate(rank, row) for rank, row in heapq.nsmallest(self.count, ranked)]
        once = {each.rank: each for each in [*found, *self._drawn]}
        self._drawn = heapq.nsmallest(self.count, once.values())

    def read(self) -> tuple[list[Example], list[Example]]:
        """Read the drawn images and those at the border, in the order of the set and of the distance."""
        share = -(-self.count // len(self._near))
        near = [each for group in self._near.values() for each in group[:share]][: self.count]
        wanted = [*self._drawn, *near]
        images: dict[tuple[int, str], StoredImage] = {}
        for shard, folder in sorted({(each.shard, each.folder) for each in wanted}):
            keys = {each.key for each in wanted if (each.shard, each.folder) == (shard, folder)}
            images |= {(shard, image.key): image for image in self.shards[shard].some_images(folder, keys)}
        drawn = sorted(self._drawn, key=lambda each: (each.shard, each.key))
        return self._examples(drawn, images, False), self._examples(near, images, True)

    def _examples(
        self, chosen: Iterable[_Candidate], images: dict[tuple[int, str], StoredImage], border: bool
    ) -> list[Example]:
        found = []
        for each in chosen:
            image = images.get((each.shard, each.key))
            if image is None:
                shard = self.shards[each.shard]
                raise DataError(
                    f"{shard.place}: {each.key!r} of {shard.name} is in its table, but not in {each.folder}."
                )
            texts = image.record["texts"]
            same = [i for i, text in enumerate(texts) if (text["text"], text["source"]) == (each.text, each.source)]
            picture = thumbnail(image.image)
            if picture is not None:
                name = self.shards[each.shard].name
                found.append(Example(name, each.key, picture, texts, same[0] if border else None))
        return found


def thumbnail(image: bytes) -> Image.Image | None:
    """Return a small copy; None if the image cannot be decoded (here, though it could where the job ran)."""
    try:
        picture = open_image(image)
    except BadSample as error:
        logger.warning("an example is left out: %s", error)
        return None
    scale = min(THUMBNAIL / max(picture.size), 1.0)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def short_score(value: float | None) -> str:
    """Format a score with two places, without the zero."""
    return "–" if value is None else f"{value:.2f}".replace("0.", ".", 1)
