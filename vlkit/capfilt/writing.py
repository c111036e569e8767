"""Write results while the models work on the next batch, and report progress."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.annotator import Batch
from vlkit.capfilt.input_reader import End, Ready, Rejected
from vlkit.capfilt.shard_output import ShardOutput

_BATCHES, _BYTES = 16, 256_000_000  # that wait to be written, at most; one batch may have more
_LOOK_SECONDS = 0.2  # between looks whether the other side has failed


class GroupOutput:
    """Write the files of one group.

    Args:
        todo: places of the shards that are to be written.
        open_output: makes the output of the shard at a place.
        finished: called with the position and the counts of each shard whose manifest is written.
        ended: called when the group is written.
    """

    def __init__(
        self,
        todo: Iterable[int],
        open_output: Callable[[int], ShardOutput],
        finished: Callable[[int, Counts], None],
        ended: Callable[[], None],
    ):
        self.ended = ended
        self._todo, self._open, self._finished = frozenset(todo), open_output, finished
        self._outputs: dict[int, ShardOutput] = {}

    def write(self, batch: Batch, texts: Sequence[Any], aborted: Callable[[], bool]) -> None:
        """Write what of a batch belongs to these files, until ``aborted``."""
        found = iter(texts)
        for event in batch.events:
            own = next(found) if isinstance(event, Ready) else ()
            if event.shard not in self._todo or aborted():
                continue
            output = self._outputs.get(event.shard)
            if output is None:
                output = self._outputs[event.shard] = self._open(event.shard)
            if isinstance(event, Ready):
                output.add(event.item, own)
            elif isinstance(event, Rejected):
                output.refuse(event.refused)
            elif isinstance(event, End):
                self._finished(event.shard, output.finish(event.images, event.texts))
                del self._outputs[event.shard]

    def discard(self) -> None:
        """Remove what is not finished."""
        for output in self._outputs.values():
            output.discard()


class Writer:
    """Write the batches of one group after the other, in a thread."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[GroupOutput, Batch | None, Sequence[Any]] | None] = queue.Queue(_BATCHES)
        self._open: list[GroupOutput] = []
        self._waiting = 0  # bytes of images
        self._less = threading.Condition()
        self._error: BaseException | None = None
        self._aborted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        """Wait until everything is written; after an error, drop the rest."""
        if kind is not None:
            self._aborted.set()
        self._put(None)
        self._thread.join()
        for group in self._open:
            group.discard()
        if kind is None:
            self.check()

    def put(self, group: GroupOutput, batch: Batch, texts: Sequence[Any]) -> None:
        """Write a batch, soon.

        Args:
            group: that it belongs to.
            batch: in the order of the input.
            texts: of each of its images.

        Raises:
            VlkitError: an earlier batch could not be written.
        """
        size = batch.image_bytes
        with self._less:
            while self._waiting and self._waiting + size > _BYTES and self._thread.is_alive():
                self._less.wait(_LOOK_SECONDS)
            self._waiting += size
        self._put((group, batch.without_pixels(), texts))
        self.check()

    def end(self, group: GroupOutput) -> None:
        """Announce that no more batches of this group follow."""
        self._put((group, None, ()))

    def check(self) -> None:
        """Raise the error of an earlier write, if there is one.

        Raises:
            VlkitError: it could not.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _put(self, entry: tuple[GroupOutput, Batch | None, Sequence[Any]] | None) -> None:
        while self._thread.is_alive():
            try:
                return self._queue.put(entry, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue

    def _run(self) -> None:
        try:
            while (entry := self._queue.get()) is not None and not self._aborted.is_set():
                group, batch, texts = entry
                if group not in self._open:
                    self._open.append(group)
                if batch is not None:
                    group.write(batch, texts, self._aborted.is_set)
                    with self._less:
                        self._waiting -= batch.image_bytes
                        self._less.notify()
                else:
                    self._open.remove(group)
                    group.ended()
        except BaseException as error:  # raised where batches are put
            self._error = error


logger = logging.getLogger(__name__)
_SECONDS = 10.0  # between two lines


class Progress:
    """Measure and log the speed of one worker.

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
        """Return the seconds since the start."""
        return time.monotonic() - self._start

    @contextlib.contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """Measure the time of the models for a number of images while entered."""
        start = time.monotonic()
        yield
        self.model_seconds += time.monotonic() - start
        self.images += images
        if time.monotonic() - self._shown >= _SECONDS:
            self._show()

    def shard(self, name: str, counts: Counts, done: int) -> None:
        """Log a finished shard, and how many shards are done."""
        self.done = done
        logger.info(
            "shard %s: %d images, %d kept, %d dropped, %d refused; %d of %d shards are done",
            *(name, counts.read, counts.kept, counts.dropped, counts.refused.total(), done, self.shards),
        )

    def facts(self) -> dict[str, float | int | None]:
        """Return images, seconds, images per second, and the share of the time that the models worked."""
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
