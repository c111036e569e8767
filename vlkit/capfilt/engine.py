"""The loop of one worker: choose a group, annotate it, write it, until none is left."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vlkit.capfilt.accounting import Counts, total
from vlkit.capfilt.annotator import Batch, Plan, ShardGroup, batches, shard_groups
from vlkit.capfilt.claims import Claims
from vlkit.capfilt.input_reader import Decoder, Reader, Ready
from vlkit.capfilt.input_shards import read_shard
from vlkit.capfilt.input_texts import RowKeys
from vlkit.capfilt.inputs import InputOptions, InputShard
from vlkit.capfilt.job_file import JobOptions
from vlkit.capfilt.output import StoredShard
from vlkit.capfilt.record import done_shards
from vlkit.capfilt.refusals import RefusalLimit
from vlkit.capfilt.shard_output import DONE, SUMMARY, Decides, ShardOutput, file_name, write_summary
from vlkit.capfilt.storage import Storage
from vlkit.capfilt.writing import GroupOutput, Progress, Writer


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

    def reads(self, text: str) -> bool:
        """Whether the filter reads anything of a web text."""
        ...

    def encoder_speed(self, images: Sequence[Ready]) -> float | None:
        """Images a second that the image encoders alone take; None: unknown."""
        ...


class Stopped(Exception):
    """The worker was asked to stop."""


@dataclass(frozen=True)
class _Started:
    """A group that is being read."""

    plan: Plan
    reader: Reader
    output: GroupOutput


class Worker:
    """One of any number of processes that do a job together.

    Args:
        shards: of the input, in order.
        options: of the input.
        place: output folder.
        annotator: the models.
        run: options of the job.
        stop: polled between batches. Return True to stop after the current batch; the next run resumes the remaining
            shards.
    """

    def __init__(
        self,
        shards: Sequence[InputShard],
        options: InputOptions,
        place: Storage,
        annotator: Annotator,
        run: JobOptions,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.shards, self.options, self.place, self.annotator, self.settings = shards, options, place, annotator, run
        self.groups = shard_groups(shards, run.shards_at_once)
        self.progress = Progress(len(shards), len(self._done()))
        self._decode = Decoder(annotator.processors, int(options.max_pixels), annotator.reads)
        web_only = getattr(annotator.decision, "texts", None) == "web"
        caption_key = RowKeys(options).wanted_caption if web_only else None
        self._limit = RefusalLimit(place, [shard.name for shard in shards], run.max_refused, caption_key)
        self._stop = stop

    def run(self) -> dict[str, Any] | None:
        """Work until every shard is done, here or in other processes.

        Returns:
            The summary; None when it was asked to stop.

        Raises:
            VlkitError: the output cannot be written, the models refuse the input, or too much of it is refused.
        """
        self._limit.redo()
        try:
            with Claims(self.place, self.settings.lease) as claims, Writer() as writer:
                self._work(GroupQueue(self.groups, self.place, claims, lambda: self._look(writer)), writer)
        except Stopped:
            return None
        self._limit.check()  # another worker may have done the last shards, and stopped
        return self._summary()

    def _work(self, groups: GroupQueue, writer: Writer) -> None:
        """Process one group after the other. While the models process the end of one, the next is read already."""
        started = self._start(groups, groups.next)
        while started is not None:
            following = None
            try:
                for batch in batches(started.reader, started.plan, self.settings.batch_size):
                    self._look(writer)
                    if following is None and started.reader.all_read:
                        following = self._start(groups, groups.next_free)
                    writer.put(started.output, batch, self._annotate(batch))
                writer.end(started.output)
            except BaseException:
                if following is not None:
                    following.reader.close()
                raise
            finally:
                started.reader.close()
            started = following or self._start(groups, groups.next)

    def _start(self, groups: GroupQueue, take: Callable[[], ShardGroup | None]) -> _Started | None:
        """Start to read a group, as far as it is not done."""
        while (group := take()) is not None:
            plan = Plan.of([self._annotated(shard) for shard in group.shards], self.settings.batch_size)
            if plan.todo:
                reader = Reader(
                    list(enumerate(group.shards))[plan.first :],
                    lambda shard: read_shard(shard, self.options),
                    self._decode,
                    self.settings.decode_threads,
                    self._look,
                )
                return _Started(plan, reader, self._output(groups, group, plan))
            groups.release(group)
        return None

    def _output(self, groups: GroupQueue, group: ShardGroup, plan: Plan) -> GroupOutput:
        run = self.settings

        def opened(place: int) -> ShardOutput:
            name = group.shards[place].name
            return ShardOutput(name, self.place, self.annotator.decision, run.store_dropped, run.output == "shards")

        def finished(place: int, counts: Counts) -> None:
            self.progress.shard(group.shards[place].name, counts, len(self._done()))
            self._limit.check()

        return GroupOutput(plan.todo, opened, finished, lambda: groups.release(group))

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
        """Return the number of annotated images of a shard; None: it is not done."""
        if not self.place.exists(file_name(DONE, shard.name)):
            return None
        return StoredShard.of(self.place, shard.name).counts.annotated

    def _done(self) -> set[str]:
        return done_shards(self.place) & {shard.name for shard in self.shards}

    def _look(self, writer: Writer | None = None) -> None:
        if self._stop():
            raise Stopped
        if writer is not None:
            writer.check()

    def _summary(self) -> dict[str, Any]:
        """Return and write the counts of the whole job; equal in every process."""
        if self.place.exists(SUMMARY):
            return summary_of(self.place)
        counts = total(StoredShard.of(self.place, shard.name).counts for shard in self.shards)
        return write_summary(self.place, counts)


def summary_of(place: Storage) -> dict[str, Any]:
    """Read the result of :meth:`Worker.run` of a finished job."""
    return json.loads(place.read_bytes(SUMMARY))


_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0  # seconds between looks at what others do
_OWN_WAIT = 0.02  # while the own files are being written


class GroupQueue:
    """Choose the next group of a worker.

    Args:
        groups: all of them.
        place: output folder.
        claims: of this worker.
        look: asked again and again while waiting; may raise.
    """

    def __init__(self, groups: Sequence[ShardGroup], place: Storage, claims: Claims, look: Callable[[], None]):
        self._groups, self._place, self._claims, self._look = groups, place, claims, look
        self._mine: set[str] = set()

    def next(self) -> ShardGroup | None:
        """Claim a group; wait while others process all that are left. None: nothing is left."""
        wait = _FIRST_WAIT
        while left := self._left():
            group = self._take(left)
            if group is not None:
                return group
            if self._mine:
                self._sleep(_OWN_WAIT)
            else:
                self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        self._claims.clear()
        return None

    def next_free(self) -> ShardGroup | None:
        """Claim a group; None if none is free at the moment."""
        return self._take(self._left())

    def release(self, group: ShardGroup) -> None:
        """Release the claim on a group."""
        self._claims.release(group.name)
        self._mine.discard(group.name)

    def _left(self) -> list[ShardGroup]:
        done = done_shards(self._place)
        return [group for group in self._groups if any(shard.name not in done for shard in group.shards)]

    def _take(self, left: Sequence[ShardGroup]) -> ShardGroup | None:
        for group in left:
            self._look()
            if group.name not in self._mine and self._claims.take(group.name):
                self._mine.add(group.name)
                return group
        return None

    def _sleep(self, seconds: float) -> None:
        """Wait, in short pieces because a signal only sets a flag."""
        pause = threading.Event()
        while seconds > 0:
            self._look()
            pause.wait(min(_FIRST_WAIT, seconds))
            seconds -= _FIRST_WAIT
