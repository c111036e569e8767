"""Reading ahead: order, what is refused, errors and stops."""

from __future__ import annotations

import io
import threading
import time

import pytest
from PIL import Image

from tests.assets.waiting import LONG, wait_until
from tests.unit.capfilt.small import picture
from vlkit.capfilt.input_reader import Decoder, End, Reader, Ready, Rejected
from vlkit.capfilt.inputs import InputShard, Item, Refused
from vlkit.errors import BadSample, VlkitError
from vlkit.processors.image import BlipImageEval

SHARDS = [(place, InputShard(f"{place}", "tar", "")) for place in range(3)]


def item(key: str, text: str | None = "a text", image: bytes = b"x") -> Item:
    return Item(key, image, "png", (text,) if text else ())


def slow_for_some(shard: int, found: Item) -> list:
    """Early items take longer than late ones."""
    time.sleep(0.02 if found.key.endswith("0") else 0)
    return [Ready(shard, found, {})]


def reader(read, decode=slow_for_some, threads=3, stopped=lambda: None) -> Reader:
    return Reader(SHARDS, read, decode, threads, stopped)


def test_everything_comes_in_the_order_of_the_input_with_counts_of_each_shard():
    def read(shard: InputShard):
        for number in range(40):
            yield item(f"{shard.name}-{number}", "t" if number % 2 else None)
            if number % 2 == 0:
                yield Refused(f"{shard.name}-{number}", "text", "no text")
        yield Refused(f"{shard.name}-x", "image", "empty image")
        yield Refused(f"{shard.name}-x", "fields", "unreadable text")
        yield Refused(shard.name, "shard", "truncated shard")

    with reader(read) as events:
        found = list(events)
    wanted = [f"{place}-{number}" for place in range(3) for number in range(40)]
    assert [event.item.key for event in found if isinstance(event, Ready)] == wanted
    assert [event for event in found if isinstance(event, End)] == [End(place, 41, 40) for place in range(3)]
    assert [event.refused.kind for event in found if isinstance(event, Rejected)][-3:] == ["image", "fields", "shard"]
    places = [event.shard for event in found]
    assert places == sorted(places)


def test_reading_is_only_so_far_ahead():
    given = []

    def read(shard: InputShard):
        for number in range(10_000):
            given.append(number)
            yield item(str(number), image=bytes(1_000_000))

    with reader(read) as events:
        for _ in zip(range(3), events):
            pass
        wait_until(lambda: len(given) > 40)  # the queue of 5 chunks of 8 is full
        time.sleep(0.2)  # in which thousands could be read
        assert len(given) < 120


@pytest.mark.parametrize("where", ["read", "decode"])
def test_what_fails_in_a_thread_is_raised_where_events_are_taken(where):
    def read(shard: InputShard):
        yield item("a")
        if where == "read":
            raise VlkitError("no room for the copy")

    def decode(shard: int, found: Item) -> list:
        raise VlkitError("no room for the copy")

    with (
        reader(read, decode if where == "decode" else slow_for_some) as events,
        pytest.raises(VlkitError, match="room"),
    ):
        list(events)


def test_a_reader_that_waits_can_be_stopped():
    go_on = threading.Event()

    def read(shard: InputShard):
        go_on.wait(LONG)
        yield item("a")

    asked = iter([None, None])

    def stopped() -> None:
        if next(asked, "stop") == "stop":
            go_on.set()
            raise VlkitError("stopped")

    with reader(read, stopped=stopped) as events, pytest.raises(VlkitError, match="stopped"):
        list(events)


def decoder(max_pixels: int = 1000) -> Decoder:
    return Decoder({"image": BlipImageEval(16), "filter_image": BlipImageEval(24)}, max_pixels)


def test_an_image_becomes_what_each_model_takes():
    data = picture(1)
    (ready,) = decoder()(4, item("a", image=data))
    assert ready.shard == 4
    assert {name: tuple(tensor.shape) for name, tensor in ready.images.items()} == {
        "image": (3, 16, 16),
        "filter_image": (3, 24, 24),
    }
    assert ready.images["filter_image"].equal(BlipImageEval(24)(data))


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (4000, 4000)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "undecodable image"),
        (b"GIF89a and nothing else", "undecodable image"),
        (picture(1)[:200], "undecodable image"),
        (picture(1, 40), "oversized image"),
        (bomb(), "oversized image"),
    ],
)
def test_images_that_cannot_be_used_are_named_with_their_texts(data, reason):
    first, second = decoder()(0, item("a", image=data)), decoder()(0, item("b", None, image=data))
    assert [(event.refused.kind, event.refused.reason) for event in first] == [("image", reason), ("text", "no image")]
    assert [(event.refused.kind, event.refused.reason) for event in second] == [("image", reason)]
    assert first[0].refused.detail


def test_addresses_of_objects_do_not_get_into_the_ledger():
    def broken(data: bytes) -> None:
        raise BadSample("", f"cannot be decoded: {io.BytesIO(data)!r} ends early")

    (turned,) = Decoder({"image": broken}, 1000)(0, item("a", None))
    assert turned.refused.detail == "cannot be decoded: <_io.BytesIO object> ends early"
