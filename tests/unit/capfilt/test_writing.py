"""The thread that writes: what it does with errors, and with shards that nobody asked for."""

from __future__ import annotations

import time

import pytest

from vlkit.capfilt.accounting import Counts
from vlkit.capfilt.batches import Batch
from vlkit.capfilt.inputs import Item, Refused
from vlkit.capfilt.reading import End, Ready, Turned
from vlkit.capfilt.writing import Writer
from vlkit.errors import VlkitError


class Output:
    """Notes what a shard is given."""

    def __init__(self, fail: bool = False):
        self.fail, self.given, self.discarded = fail, [], False

    def add(self, item, texts):
        if self.fail:
            raise VlkitError("no space left")
        self.given.append((item.key, texts))

    def refuse(self, refused):
        self.given.append((refused.key, refused.reason))

    def finish(self, images, texts):
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


def test_each_shard_gets_its_own_and_others_are_passed_over():
    outputs, finished = {0: Output(), 2: Output()}, []
    with Writer({0, 2}, outputs.__getitem__, lambda place, counts: finished.append((place, counts.kept))) as writer:
        writer.put(BATCH, ["A", "C", "D"])
    assert outputs[0].given == [("a", "A"), ("b", "empty image"), (2, 1)]
    assert outputs[2].given == [("d", "D")]
    assert finished == [(0, 2)]
    assert (outputs[0].discarded, outputs[2].discarded) == (False, True)


def write(writer: Writer, times: int = 1, error: Exception | None = None) -> None:
    with writer:
        for _ in range(times):
            writer.put(BATCH, ["A", "C", "D"])
            time.sleep(0.01)
        if error:
            raise error


def test_an_error_reaches_whoever_puts_the_next_batch():
    output = Output(fail=True)
    with pytest.raises(VlkitError, match="no space left"):
        write(Writer({0}, lambda _: output, lambda *_: None), times=100)
    assert output.discarded


def test_an_error_in_the_last_batch_is_not_lost():
    with pytest.raises(VlkitError, match="no space left"):
        write(Writer({0}, lambda _: Output(True), lambda *_: None))


def test_after_an_error_elsewhere_what_is_open_is_discarded():
    outputs = {1: Output(), 2: Output()}
    with pytest.raises(KeyError):
        write(Writer({1, 2}, outputs.__getitem__, lambda *_: None), error=KeyError())
    assert outputs[2].discarded or not outputs[2].given
