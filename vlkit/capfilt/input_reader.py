"""Read shards ahead of the models: threads decode images, and the order of the input is kept."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlkit.capfilt.inputs import InputShard, Item, Refused
from vlkit.datasets.faults import short
from vlkit.errors import BadSample
from vlkit.processors.encoded import TooLarge, open_encoded
from vlkit.processors.open_image import pillow_without_limits

if TYPE_CHECKING:
    from torch import Tensor


Images = dict[str, "Tensor"]
_CHUNK_ITEMS, _CHUNK_BYTES = 16, 8_000_000  # what a thread decodes at once
_LOOK_SECONDS = 0.2  # between looks whether somebody asked to stop


@dataclass(frozen=True)
class Ready:
    """A decoded image.

    Args:
        shard: its place in the group.
        item: what was read.
        images: model inputs by name, each [3, S, S].
    """

    shard: int
    item: Item
    images: Images


@dataclass(frozen=True)
class Rejected:
    """An input of a shard that gives no output."""

    shard: int
    refused: Refused


@dataclass(frozen=True)
class End:
    """The end of a shard.

    Args:
        shard: its place in the group.
        images, texts: that were met in it.
    """

    shard: int
    images: int
    texts: int


Event = Ready | Rejected | End


class Decoder:
    """Decode images into inputs of the models.

    Args:
        processors: input of the models ("image", "filter_image") to its image processor.
        max_pixels: larger images are refused before they are decoded.
        reads: whether the filter reads anything of a text.
    """

    def __init__(self, processors: dict[str, Any], max_pixels: int, reads: Callable[[str], bool] = lambda text: True):
        self.processors, self.max_pixels, self.reads = processors, max_pixels, reads

    def __call__(self, shard: int, item: Item) -> list[Event]:
        """Decode an item; return the image, or why it is rejected with its texts."""
        try:
            self._check_size(item.image)
            images = {name: processor(item.image) for name, processor in self.processors.items()}
        except TooLarge as error:
            return _turned(shard, item, "oversized image", error.reason)
        except BadSample as error:
            return _turned(shard, item, "undecodable image", error.reason)
        emptied = [text for text in item.texts if not self.reads(text)]
        texts = tuple(text for text in item.texts if text not in emptied)
        turned = [Rejected(shard, Refused(item.key, "text", "no text", _emptied(text))) for text in emptied]
        return [*turned, Ready(shard, replace(item, texts=texts) if emptied else item, images)]

    def _check_size(self, data: bytes) -> None:
        try:
            with pillow_without_limits():
                open_encoded(data, "", self.max_pixels)
        except TooLarge:
            raise
        except Exception:  # the processor says it better
            return


def _emptied(text: str) -> str:
    return f"nothing is left of {short(text)} after the preprocessing of captions"


def _turned(shard: int, item: Item, reason: str, detail: str) -> list[Event]:
    detail = re.sub(r" at 0x[0-9a-fA-F]+", "", detail)  # Pillow names objects by their address
    turned: list[Event] = [Rejected(shard, Refused(item.key, "image", reason, detail))]
    return turned + [Rejected(shard, Refused(item.key, "text", "no image")) for _ in item.texts]


class Reader:
    """Iterate over the content of shards, decoded ahead by threads.

    Args:
        shards: (place in the group, shard) in order.
        read: gives what a shard holds.
        decode: makes events of an item.
        threads: that decode.
        stopped: asked again and again while waiting; may raise.

    Attributes:
        all_read: whether only what is decoded or about to be is still to come.
    """

    def __init__(
        self,
        shards: Sequence[tuple[int, InputShard]],
        read: Callable[[InputShard], Iterator[Item | Refused]],
        decode: Callable[[int, Item], list[Event]],
        threads: int,
        stopped: Callable[[], None],
    ):
        self._shards, self._read, self._decode, self._stopped = shards, read, decode, stopped
        self.all_read = False
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._queue: queue.Queue[Future[list[Event]] | BaseException | None] = queue.Queue(threads + 2)
        self._feeder = threading.Thread(target=self._feed, name="read", daemon=True)
        self._feeder.start()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        while True:
            future = self._next()
            if future is None:
                return
            yield from future.result()

    def close(self) -> None:
        """Stop reading; what was read and not taken is forgotten."""
        self._closing.set()
        self._feeder.join()
        self._pool.shutdown(cancel_futures=True)

    def _next(self) -> Future[list[Event]] | None:
        while True:
            self._stopped()
            try:
                found = self._queue.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            if isinstance(found, BaseException):
                raise found
            return found

    def _put(self, entry: Future[list[Event]] | BaseException | None) -> bool:
        """Put an entry; return False when the reader was closed."""
        while not self._closing.is_set():
            try:
                self._queue.put(entry, timeout=_LOOK_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def _feed(self) -> None:
        try:
            for place, shard in self._shards:
                for chunk in self._chunks(place, shard):
                    if not self._put(self._pool.submit(self._decoded, chunk)):
                        return
            self.all_read = True
            self._put(None)
        except BaseException as error:  # raised where the events are taken
            self._put(error)

    def _chunks(self, place: int, shard: InputShard) -> Iterator[list[tuple[int, Item] | Event]]:
        """Split the content of a shard into chunks for one thread."""
        chunk: list[tuple[int, Item] | Event] = []
        size = images = texts = 0
        for found in self._read(shard):
            if isinstance(found, Item):
                images, texts = images + 1, texts + len(found.texts)
                size += len(found.image)
                chunk.append((place, found))
            else:
                images, texts = images + (found.kind == "image"), texts + (found.kind == "text")
                chunk.append(Rejected(place, found))
            if len(chunk) >= _CHUNK_ITEMS or size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        yield [*chunk, End(place, images, texts)]

    def _decoded(self, chunk: list[tuple[int, Item] | Event]) -> list[Event]:
        events: list[Event] = []
        for entry in chunk:
            if self._closing.is_set():  # nobody takes them
                break
            events += self._decode(*entry) if isinstance(entry, tuple) else [entry]
        return events
