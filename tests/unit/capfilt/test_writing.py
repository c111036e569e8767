"""The thread that writes: what it does with errors, and with shards that nobody asked for."""

from __future__ import annotations

import threading

import pytest

from tests.assets.waiting import LONG, wait_until
from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.annotator import Batch
from vlkit.capfilt.input_reader import End, Ready, Rejected
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.writing import GroupOutput, Writer
from vlkit.errors import VlkitError


class Output:
    """Notes what a shard is given; is not finished before ``may_finish``."""

    def __init__(self, fail: bool = False, may_finish: threading.Event | None = None):
        self.may_finish = may_finish
        self.fail, self.given, self.discarded = fail, [], False

    def add(self, item, texts):
        if self.fail:
            raise VlkitError("no space left")
        self.given.append((item.key, texts))

    def refuse(self, refused):
        self.given.append((refused.key, refused.reason))

    def finish(self, images, texts):
        assert self.may_finish is None or self.may_finish.wait(LONG)
        self.given.append((images, texts))
        return Counts(kept=images)

    def discard(self):
        self.discarded = True


def ready(shard: int, key: str) -> Ready:
    return Ready(shard, Item(key, b"", "png", ()), {})


BATCH = Batch(
    [
        ready(0, "a"),
        Rejected(0, Refused("b", "image", "empty image")),
        End(0, 2, 1),
        ready(1, "c"),
        End(1, 1, 0),
        ready(2, "d"),
    ]
)


def group(todo, outputs, finished=None, ended=lambda: None) -> GroupOutput:
    reported = finished if finished is not None else []
    return GroupOutput(todo, outputs.__getitem__, lambda place, counts: reported.append((place, counts.kept)), ended)


def test_each_shard_gets_its_own_and_others_are_passed_over():
    outputs, finished, ended = {0: Output(), 2: Output()}, [], []
    with Writer() as writer:
        one = group({0, 2}, outputs, finished, lambda: ended.append(len(outputs[2].given)))
        writer.put(one, BATCH, ["A", "C", "D"])
        writer.put(one, Batch([End(2, 1, 0)]), [])
        writer.end(one)
    assert outputs[0].given == [("a", "A"), ("b", "empty image"), (2, 1)]
    assert outputs[2].given == [("d", "D"), (1, 0)]
    assert finished == [(0, 2), (2, 1)]
    assert ended == [2]
    assert not outputs[0].discarded


def test_the_next_lot_is_put_while_the_last_one_is_written():
    may_finish = threading.Event()
    slow, fast = {0: Output(may_finish=may_finish), 2: Output()}, {1: Output()}
    order: list[str] = []
    with Writer() as writer:
        for name, outputs in (("slow", slow), ("fast", fast)):
            one = group(outputs, outputs, ended=lambda name=name: order.append(name))
            writer.put(one, BATCH, ["A", "C", "D"])
            writer.end(one)
        assert order == []
        may_finish.set()
    assert order == ["slow", "fast"]
    assert fast[1].given == [("c", "C"), (1, 0)]


def test_only_a_number_of_bytes_wait():
    large = Batch([Ready(0, Item("a", bytes(150_000_000), "png", ()), {})])
    may_finish = threading.Event()
    output = Output(may_finish=may_finish)
    later = threading.Timer(0.3, may_finish.set)
    with Writer() as writer:
        writer.put(group({0}, {0: output}), Batch([*large.events, End(0, 1, 0)]), ["A"])
        later.start()  # that was put at once, and is now written until then
        writer.put(group({0}, {0: Output()}), large, ["A"])
        assert output.given == [("a", "A"), (1, 0)]
    later.join()


def test_an_error_reaches_the_thread_that_puts_the_next_batch():
    output = Output(fail=True)
    one = group({0}, {0: output})
    with Writer() as writer, pytest.raises(VlkitError, match="no space left"):
        wait_until(lambda: writer.put(one, BATCH, ["A", "C", "D"]))
    assert output.discarded


def test_an_error_in_the_last_batch_is_not_lost():
    with pytest.raises(VlkitError, match="no space left"), Writer() as writer:
        writer.put(group({0}, {0: Output(fail=True)}), BATCH, ["A", "C", "D"])


def test_after_an_error_elsewhere_what_is_open_is_discarded():
    outputs = {1: Output(), 2: Output()}

    def fail() -> None:
        with Writer() as writer:
            writer.put(group({1, 2}, outputs), BATCH, ["A", "C", "D"])
            wait_until(lambda: outputs[2].given)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert outputs[2].discarded
    assert not outputs[1].discarded
