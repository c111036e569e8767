"""Batches of a group that is resumed are those of a group that was never stopped."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.capfilt.annotator import Plan, batches, shard_groups
from vlkit.capfilt.input_reader import End, Event, Ready, Rejected
from vlkit.capfilt.inputs import InputShard, Item, Refused

SHARDS = st.lists(st.lists(st.booleans(), max_size=9), min_size=1, max_size=5)


def events_of(shards: list[list[bool]], first: int = 0) -> list[Event]:
    """What a reader gives for shards of good (True) and bad images."""
    found: list[Event] = []
    for place, images in list(enumerate(shards))[first:]:
        for number, good in enumerate(images):
            key = f"{place}-{number}"
            item = Item(key, b"", "png", ())
            found.append(Ready(place, item, {}) if good else Rejected(place, Refused(key, "image", "empty image")))
        found.append(End(place, len(images), 0))
    return found


def keys(batch) -> list[str]:
    return [ready.item.key for ready in batch.images]


def test_a_lot_without_a_stop_is_cut_evenly_over_the_borders_of_shards():
    shards = [[True] * 3, [True, False, True], [True] * 2]
    plan = Plan.of([None, None, None], 4)
    assert plan == Plan(0, 0, frozenset({0, 1, 2}))
    found = list(batches(events_of(shards), plan, 4))
    assert [keys(batch) for batch in found] == [["0-0", "0-1", "0-2", "1-0"], ["1-2", "2-0", "2-1"]]
    assert [event for batch in found for event in batch.events] == events_of(shards)


def test_the_images_of_the_open_batch_are_read_again():
    shards = [[True] * 5, [True] * 2, [True] * 3]
    plan = Plan.of([5, 2, None], 4)
    assert plan == Plan(0, 4, frozenset({2}))
    assert [keys(batch) for batch in batches(events_of(shards), plan, 4)] == [
        ["0-4", "1-0", "1-1", "2-0"],
        ["2-1", "2-2"],
    ]


def test_nothing_is_read_again_at_the_border_of_a_batch():
    assert Plan.of([4, None], 4) == Plan(1, 0, frozenset({1}))


def test_nothing_is_left_of_a_lot_that_is_done():
    assert not Plan.of([4, 0, 2], 4).todo


def test_a_shard_in_the_middle_is_done_without_those_behind_it():
    shards = [[True] * 4, [True] * 3, [True] * 9]
    plan = Plan.of([4, None, 9], 4)
    found = [keys(batch) for batch in batches(events_of(shards, plan.first), plan, 4)]
    assert found == [["1-0", "1-1", "1-2", "2-0"]]


@settings(deadline=None, max_examples=200)
@given(shards=SHARDS, done=st.lists(st.booleans(), min_size=5, max_size=5), size=st.integers(1, 6))
def test_whatever_is_done_the_rest_is_done_in_the_same_batches(shards, done, size):
    whole = list(batches(events_of(shards), Plan.of([None] * len(shards), size), size))
    annotated = [sum(images) if ready else None for images, ready in zip(shards, done)]
    plan = Plan.of(annotated, size)
    again = list(batches(events_of(shards, plan.first), plan, size)) if plan.todo else []
    wanted = [keys(batch) for batch in whole if any(ready.shard in plan.todo for ready in batch.images)]
    assert [k for k in map(keys, again) if any(int(key[0]) in plan.todo for key in k)] == wanted
    mine = [event for batch in again for event in batch.events if event.shard in plan.todo]
    assert mine == [event for event in events_of(shards) if event.shard in plan.todo]
    assert all(len(batch.images) == size for batch in again[:-1])


def test_groups_are_runs_of_shards():
    shards = [InputShard(name, "tar", f"{name}.tar") for name in "abcde"]
    groups = shard_groups(shards, 2)
    assert [(group.name, [shard.name for shard in group.shards]) for group in groups] == [
        ("a", ["a", "b"]),
        ("c", ["c", "d"]),
        ("e", ["e"]),
    ]
