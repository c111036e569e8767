"""Which images the models see together. It follows from the input alone, so that scores do, too.

Batches are filled over the borders of the shards of a lot and never over those of lots. Whoever goes on with a lot
that is half done reads the images of the open batch again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from vlkit.capfilt.inputs import InputShard
from vlkit.capfilt.reading import End, Event, Ready


@dataclass(frozen=True)
class Lot:
    """Consecutive shards that one worker does.

    Args:
        name: that of its first shard.
        shards: in the order of the input.
    """

    name: str
    shards: tuple[InputShard, ...]


def lots_of(shards: Sequence[InputShard], at_once: int) -> list[Lot]:
    """The input cut into lots of ``at_once`` shards; the last may be smaller."""
    groups = [tuple(shards[start : start + at_once]) for start in range(0, len(shards), at_once)]
    return [Lot(group[0].name, group) for group in groups]


@dataclass(frozen=True)
class Plan:
    """How to go on with a lot.

    Args:
        first: the shard to read from.
        skip: images of what is read that are not needed.
        todo: shards that are to be written; empty: none is missing.
    """

    first: int
    skip: int
    todo: frozenset[int]

    @classmethod
    def of(cls, annotated: Sequence[int | None], batch_size: int) -> Plan:
        """The plan for a lot.

        Args:
            annotated: of each shard how many images went through the models; None: it is not done.
            batch_size: images in a batch.
        """
        todo = frozenset(place for place, count in enumerate(annotated) if count is None)
        if not todo:
            return cls(len(annotated), 0, todo)
        first = min(todo)
        before = [count or 0 for count in annotated[:first]]
        again = sum(before) % batch_size
        have = 0
        while have < again:
            first -= 1
            have += before[first]
        return cls(first, have - again, todo)


@dataclass
class Batch:
    """A stretch of the input with as many images as the models take at once.

    Args:
        events: images, and what was met among them, in order.
    """

    events: list[Event] = field(default_factory=list)

    @property
    def images(self) -> list[Ready]:
        """Those that the models are to see."""
        return [event for event in self.events if isinstance(event, Ready)]

    @property
    def image_bytes(self) -> int:
        """Size of the encoded images."""
        return sum(len(ready.item.image) for ready in self.images)

    def without_pixels(self) -> Batch:
        """The same for somebody who needs the encoded images alone: the pixels are many times as large."""
        return Batch([Ready(each.shard, each.item, {}) if isinstance(each, Ready) else each for each in self.events])


def batches(events: Iterable[Event], plan: Plan, batch_size: int) -> Iterator[Batch]:
    """The batches that the shards of ``plan`` need, up to the end of the last of them.

    Args:
        events: of the lot from ``plan.first`` on.
        plan: how to go on.
        batch_size: images in a batch; the last of a lot may have fewer.
    """
    skip, missing = plan.skip, set(plan.todo)
    batch, count = Batch(), 0
    for event in events:
        if isinstance(event, Ready):
            if skip:
                skip -= 1
                continue
            count += 1
        batch.events.append(event)
        if isinstance(event, End):
            missing.discard(event.shard)
        if count == batch_size:
            yield batch
            batch, count = Batch(), 0
        if not missing and not count:
            break
    if batch.events:
        yield batch
