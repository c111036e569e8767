"""What a worker says while it works: how fast it is, and how much of the time the models work."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from vlkit.capfilt.accounting import Counts

logger = logging.getLogger(__name__)
_SECONDS = 10.0  # between two lines


class Progress:
    """Speed of one worker.

    Args:
        shards: of the job.
        done: of them, by anybody, before this worker started.

    Attributes:
        images: that went through the models.
        model_seconds: that they took for it.
        encoder: images a second of the image encoders alone, where it was measured.
    """

    def __init__(self, shards: int, done: int):
        self.shards, self.done = shards, done
        self.images, self.model_seconds = 0, 0.0
        self.encoder: float | None = None
        self._start = self._shown = time.monotonic()
        self._before = (0, 0.0)

    @property
    def seconds(self) -> float:
        """Since it started."""
        return time.monotonic() - self._start

    @contextlib.contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """While entered, the models work on so many images."""
        start = time.monotonic()
        yield
        self.model_seconds += time.monotonic() - start
        self.images += images
        if time.monotonic() - self._shown >= _SECONDS:
            self._show()

    def shard(self, name: str, counts: Counts, done: int) -> None:
        """A shard is written; ``done`` are now."""
        self.done = done
        logger.info(
            "shard %s: %d images, %d kept, %d dropped, %d refused; %d of %d shards are done",
            *(name, counts.read, counts.kept, counts.dropped, counts.refused.total(), done, self.shards),
        )

    def facts(self) -> dict[str, float | int | None]:
        """Images, seconds, images a second, and the share of the time that the models worked."""
        seconds = self.seconds
        return {
            "images": self.images,
            "seconds": seconds,
            "images_per_s": self.images / seconds if seconds else 0.0,
            "model_share": self.model_seconds / seconds if seconds else 0.0,
            "encoder_images_per_s": self.encoder,
        }

    def _show(self) -> None:
        now = time.monotonic()
        seconds, (images, model) = now - self._shown, self._before
        rate, share = (self.images - images) / seconds, (self.model_seconds - model) / seconds
        beside = f" (the image encoder alone: {self.encoder:,.0f})" if self.encoder else ""
        logger.info("%.0f images/s%s, the models work %.0f%% of the time", rate, beside, 100 * share)
        self._shown, self._before = now, (self.images, self.model_seconds)
