"""The work of one process on a job: lots are taken, done and given back until none is left."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from vlkit.capfilt.accounting import Counts, total
from vlkit.capfilt.batches import Batch, Lot, Plan, batches, lots_of
from vlkit.capfilt.claims import Claims
from vlkit.capfilt.inputs import InputOptions, InputShard
from vlkit.capfilt.place import Place
from vlkit.capfilt.progress import Progress
from vlkit.capfilt.reading import Decoder, Reader, Ready
from vlkit.capfilt.shard_output import DONE, SUFFIXES, SUMMARY, Decides, ShardOutput, file_name, write_summary
from vlkit.capfilt.sources import read_shard
from vlkit.capfilt.stored import StoredShard
from vlkit.capfilt.writing import Writer

logger = logging.getLogger(__name__)
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0  # seconds between looks at what others do


class Annotator(Protocol):
    """Captions and scores images.

    Attributes:
        processors: input of the models to its image processor.
        decision: which texts stay.
    """

    processors: dict[str, Any]
    decision: Decides

    def __call__(self, images: Sequence[Ready]) -> list[list[Any]]:
        """The texts of each image with their scores."""
        ...

    def encoder_speed(self, images: Sequence[Ready]) -> float | None:
        """Images a second that the image encoders alone take; None: unknown."""
        ...


class Stopped(Exception):
    """Somebody asked to stop."""


class Worker:
    """One of any number of processes that do a job together.

    Args:
        shards: of the input, in order.
        options: of the input.
        place: output folder.
        annotator: the models.
        batch_size: images that they take at once.
        shards_at_once: shards in a lot.
        readers: threads that decode images.
        lease: seconds after which a lot is free whose worker gave no sign.
        store_dropped: whether images without a kept text are stored.
        stop: asked again and again; true: end soon. What is not finished is done by the next call, or by others.
    """

    def __init__(
        self,
        shards: Sequence[InputShard],
        options: InputOptions,
        place: Place,
        annotator: Annotator,
        batch_size: int,
        shards_at_once: int = 2,
        readers: int = 2,
        lease: float = 600.0,
        store_dropped: bool = True,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.shards, self.options, self.place, self.annotator = shards, options, place, annotator
        self.batch_size, self.readers, self.lease, self.store_dropped = batch_size, readers, lease, store_dropped
        self.lots = lots_of(shards, shards_at_once)
        self.progress = Progress(len(shards), len(self._done()))
        self._decode = Decoder(annotator.processors, int(options.max_pixels))
        self._stop = stop

    def run(self) -> dict[str, Any] | None:
        """Work until every shard is done, by whomever.

        Returns:
            The summary; None when it was asked to stop.

        Raises:
            VlkitError: the output cannot be written, or the models refuse the input.
        """
        try:
            with Claims(self.place, self.lease) as claims:
                self._work(claims)
        except Stopped:
            return None
        return self._summary()

    def _done(self) -> set[str]:
        return done_shards(self.place) & {shard.name for shard in self.shards}

    def _work(self, claims: Claims) -> None:
        wait = _FIRST_WAIT
        while True:
            done = self._done()
            left = {lot.name: lot for lot in self.lots if any(shard.name not in done for shard in lot.shards)}
            if not left:
                claims.clear()
                return
            lot = next((left[name] for name in claims.order(list(left)) if self._takes(claims, left[name])), None)
            if lot is None:
                self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            wait = _FIRST_WAIT
            try:
                self._do(lot)
            finally:
                claims.release(lot.name)

    def _takes(self, claims: Claims, lot: Lot) -> bool:
        self._look()
        return claims.take(lot.name)

    def _do(self, lot: Lot) -> None:
        """All that is missing of a lot."""
        plan = Plan.of([self._annotated(shard) for shard in lot.shards], self.batch_size)
        if not plan.todo:
            return
        read = list(enumerate(lot.shards))[plan.first :]
        with (
            Reader(read, self._read, self._decode, self.readers, self._look) as reader,
            Writer(plan.todo, lambda place: self._output(lot.shards[place]), self._finished(lot)) as writer,
        ):
            for batch in batches(reader, plan, self.batch_size):
                self._look()
                writer.put(batch, self._annotate(batch))

    def _annotate(self, batch: Batch) -> list[list[Any]]:
        images = batch.images
        if not images:
            return []
        with self.progress.batch(len(images)):
            texts = self.annotator(images)
        if self.progress.encoder is None and self.progress.images > len(images):  # the first batch also warms up
            self.progress.encoder = self.annotator.encoder_speed(images)
        return texts

    def _annotated(self, shard: InputShard) -> int | None:
        """Images of a shard that went through the models; None: it is not done."""
        if not self.place.exists(file_name(DONE, shard.name)):
            return None
        return StoredShard.of(self.place, shard.name).counts.annotated

    def _read(self, shard: InputShard) -> Iterator[Any]:
        return read_shard(shard, self.options)

    def _output(self, shard: InputShard) -> ShardOutput:
        return ShardOutput(shard.name, self.place, self.annotator.decision, self.store_dropped)

    def _finished(self, lot: Lot) -> Callable[[int, Counts], None]:
        def finished(place: int, counts: Counts) -> None:
            self.progress.shard(lot.shards[place].name, counts, len(self._done()))

        return finished

    def _look(self) -> None:
        if self._stop():
            raise Stopped

    def _sleep(self, seconds: float) -> None:
        """Waits, in short pieces because a signal only sets a flag."""
        pause = threading.Event()
        while seconds > 0:
            self._look()
            pause.wait(min(_FIRST_WAIT, seconds))
            seconds -= _FIRST_WAIT

    def _summary(self) -> dict[str, Any]:
        """Counts over everything, also written; equal whoever writes it."""
        if self.place.exists(SUMMARY):
            return summary_of(self.place)
        counts = total(StoredShard.of(self.place, shard.name).counts for shard in self.shards)
        return write_summary(self.place, counts)


def done_shards(place: Place) -> set[str]:
    """Names of the shards that are done."""
    return {name.removesuffix(SUFFIXES[DONE]) for name in place.list(DONE)}


def summary_of(place: Place) -> dict[str, Any]:
    """What :meth:`Worker.run` returned when the job was finished."""
    return json.loads(place.read_bytes(SUMMARY))
