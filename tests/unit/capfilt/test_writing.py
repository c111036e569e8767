"""The thread that writes: what it does with errors, and with shards that nobody asked for."""

from __future__ import annotations

import time

import pytest

from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.batches import Batch
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.reading import End, Ready, Turned
from vlkit.capfilt.writing import LotOutput, Writer
from vlkit.errors import VlkitError


class Output:
    """Notes what a shard is given."""

    def __init__(self, fail: bool = False, pause: float = 0.0):
        self.pause = pause
        self.fail, self.given, self.discarded = fail, [], False

    def add(self, item, texts):
        if self.fail:
            raise VlkitError("no space left")
        self.given.append((item.key, texts))

    def refuse(self, refused):
        self.given.append((refused.key, refused.reason))

    def finish(self, images, texts):
        time.sleep(self.pause)
        self.given.append((images, texts))
        return Counts(kept=images)

    def discard(self):
        self.discarded = True


def ready(shard: int, key: str) -> Ready:
    return Ready(shard, Item(key, b"", "png", None), {})


BATCH = Batch(
    [
        ready(0, "a"),
        Turned(0, Refused("b", "image", "empty image")),
        End(0, 2, 1),
        ready(1, "c"),
        End(1, 1, 0),
        ready(2, "d"),
    ]
)


def lot(todo, outputs, finished=None, ended=lambda: None) -> LotOutput:
    told = finished if finished is not None else []
    return LotOutput(todo, outputs.__getitem__, lambda place, counts: told.append((place, counts.kept)), ended)


def write(output: LotOutput, times: int = 1, error: Exception | None = None) -> None:
    with Writer() as writer:
        for _ in range(times):
            writer.put(output, BATCH, ["A", "C", "D"])
            time.sleep(0.01)
        if error:
            raise error


def test_each_shard_gets_its_own_and_others_are_passed_over():
    outputs, finished, ended = {0: Output(), 2: Output()}, [], []
    with Writer() as writer:
        one = lot({0, 2}, outputs, finished, lambda: ended.append(len(outputs[2].given)))
        writer.put(one, BATCH, ["A", "C", "D"])
        writer.put(one, Batch([End(2, 1, 0)]), [])
        writer.end(one)
    assert outputs[0].given == [("a", "A"), ("b", "empty image"), (2, 1)]
    assert outputs[2].given == [("d", "D"), (1, 0)]
    assert finished == [(0, 2), (2, 1)]
    assert ended == [2]
    assert not outputs[0].discarded


def test_the_next_lot_is_put_while_the_last_one_is_written():
    slow, fast = {0: Output(pause=0.2), 2: Output()}, {1: Output()}
    order: list[str] = []
    with Writer() as writer:
        for name, outputs in (("slow", slow), ("fast", fast)):
            one = lot(outputs, outputs, ended=lambda name=name: order.append(name))
            writer.put(one, BATCH, ["A", "C", "D"])
            writer.end(one)
        assert order == []
    assert order == ["slow", "fast"]
    assert fast[1].given == [("c", "C"), (1, 0)]


def test_only_so_many_bytes_wait():
    large = Batch([Ready(0, Item("a", bytes(150_000_000), "png", None), {})])
    output = Output(pause=0.3)
    with Writer() as writer:
        one = lot({0}, {0: output})
        start = time.monotonic()
        writer.put(one, Batch([*large.events, End(0, 1, 0)]), ["A"])
        assert time.monotonic() - start < 0.2
        writer.put(lot({0}, {0: Output()}), large, ["A"])
        assert time.monotonic() - start > 0.25


def test_an_error_reaches_whoever_puts_the_next_batch():
    output = Output(fail=True)
    with pytest.raises(VlkitError, match="no space left"):
        write(lot({0}, {0: output}), times=100)
    assert output.discarded


def test_an_error_in_the_last_batch_is_not_lost():
    with pytest.raises(VlkitError, match="no space left"):
        write(lot({0}, {0: Output(fail=True)}))


def test_after_an_error_elsewhere_what_is_open_is_discarded():
    outputs = {1: Output(), 2: Output()}
    with pytest.raises(KeyError):
        write(lot({1, 2}, outputs), error=KeyError())
    assert outputs[2].discarded or not outputs[2].given
