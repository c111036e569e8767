"""Writes what the models said while they work on the next batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.batches import Batch
from vlkit.capfilt.reading import End, Ready, Turned
from vlkit.capfilt.shard_output import ShardOutput

_BATCHES = 2  # that wait to be written
_LOOK_SECONDS = 0.2  # between looks whether the other side has failed


class Writer:
    """Takes annotated batches of one lot and makes the files of its shards, in a thread of its own.

    Args:
        todo: places of the shards that are to be written.
        open_output: makes the output of the shard at a place.
        finished: told the place and the counts of each shard whose manifest is written.
    """

    def __init__(
        self,
        todo: Iterable[int],
        open_output: Callable[[int], ShardOutput],
        finished: Callable[[int, Counts], None],
    ):
        self._todo, self._open, self._finished = frozenset(todo), open_output, finished
        self._outputs: dict[int, ShardOutput] = {}
        self._queue: queue.Queue[tuple[Batch, Sequence[Any]] | None] = queue.Queue(_BATCHES)
        self._error: BaseException | None = None
        self._aborted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self._thread.start()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        """Waits until all is written, or after an error drops what is not."""
        if kind is not None:
            self._aborted.set()
        self._put(None)
        self._thread.join()
        for output in self._outputs.values():
            output.discard()
        if kind is None:
            self._raise()

    def put(self, batch: Batch, texts: Sequence[Any]) -> None:
        """Write a batch, soon.

        Args:
            batch: in the order of the input.
            texts: of each of its images.

        Raises:
            VlkitError: an earlier batch could not be written.
        """
        self._put((batch, texts))
        self._raise()

    def _put(self, entry: tuple[Batch, Sequence[Any]] | None) -> None:
        while self._thread.is_alive():
            try:
                return self._queue.put(entry, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        try:
            while (entry := self._queue.get()) is not None and not self._aborted.is_set():
                self._write(*entry)
        except BaseException as error:  # raised where batches are put
            self._error = error

    def _write(self, batch: Batch, texts: Sequence[Any]) -> None:
        found = iter(texts)
        for event in batch.events:
            own = next(found) if isinstance(event, Ready) else ()
            if event.shard not in self._todo or self._aborted.is_set():
                continue
            output = self._outputs.get(event.shard)
            if output is None:
                output = self._outputs[event.shard] = self._open(event.shard)
            if isinstance(event, Ready):
                output.add(event.item, own)
            elif isinstance(event, Turned):
                output.refuse(event.refused)
            elif isinstance(event, End):
                self._finished(event.shard, output.finish(event.images, event.texts))
                del self._outputs[event.shard]
