"""Run the models on batches of decoded images. Batches follow from the input alone, so scores are reproducible."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vlkit.capfilt.input_reader import End, Event, Ready
from vlkit.capfilt.inputs import InputShard, seed_of
from vlkit.errors import VlkitError
from vlkit.processors.tokenizer import FitWatch

logger = logging.getLogger(__name__)
_SCORES = {"captioner's log-probabilities": ("log_prob",), "filter's scores": ("itm", "itc")}


class ModelAnnotator:
    """Caption and score batches of images.

    Args:
        model: captioner and filter, on its device and in eval mode.
        task: has ``annotate`` and ``decision``.
        processors: input of the model ("image", "filter_image") to its image processor.
        device: of the model.
        autocast: makes the context of the precision.
        seed: of the job.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Any,
        processors: dict[str, Any],
        device: torch.device,
        autocast: Callable[[], Any],
        seed: int,
    ):
        self.model, self.task, self.processors = model, task, processors
        self.device, self.autocast, self.seed = device, autocast, seed
        self.decision = task.decision
        tokenizer = getattr(getattr(model, "filter", None), "tokenizer", None)
        self._fit = FitWatch(tokenizer, "the tokenizer of model.filter")

    def __call__(self, images: Sequence[Ready]) -> list[list[Any]]:
        """Return the texts of each image with their scores, those of the web first.

        Raises:
            VlkitError: a score is not a number.
        """
        found = self.annotate(images)
        self.see(text for ready in images for text in ready.item.texts)
        return found

    def annotate(self, images: Sequence[Ready]) -> list[list[Any]]:
        """Annotate without a warning about texts that the tokenizer does not know."""
        seeds = torch.tensor([seed_of(ready.item.key, self.seed) for ready in images])
        web = [ready.item.texts for ready in images]
        with torch.inference_mode(), self.autocast():
            found = self.task.annotate(self.model, self._samples(images), web, seeds)
        for ready, texts in zip(images, found):
            for whose, names in _SCORES.items():
                if not all(math.isfinite(getattr(text, name) or 0.0) for text in texts for name in names):
                    raise VlkitError(
                        f"the {whose} of {ready.item.key!r} are not finite numbers. Nothing is written of them. Are "
                        f"its weights intact? With run.precision bf16, try fp32."
                    )
        return found

    def see(self, texts: Iterable[str]) -> None:
        """Warn once if the filter's tokenizer does not fit the texts of the web."""
        note = self._fit.see(texts)
        if note:
            logger.warning("the texts of the web: %s", note)

    def reads(self, text: str) -> bool:
        """Return whether anything is left of a web text after the preprocessing of captions."""
        return bool(self.task.read(text).strip()) if hasattr(self.task, "read") else True

    def encoder_speed(self, images: Sequence[Ready]) -> float | None:
        """Measure images per second of the image encoders alone; None: the model has none."""
        if not hasattr(self.model, "encode"):
            return None
        samples = self._samples(images)
        with torch.inference_mode(), self.autocast():
            start = time.monotonic()
            ends = self.model.encode(samples)  # type: ignore[operator]
            float(ends[-1].flatten()[0])  # waits for the device
        return len(images) / (time.monotonic() - start)

    def _samples(self, images: Sequence[Ready]) -> dict[str, Tensor]:
        stacked = {name: torch.stack([ready.images[name] for ready in images]) for name in self.processors}
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in stacked.items()}


@dataclass(frozen=True)
class ShardGroup:
    """Consecutive shards that one worker does.

    Args:
        name: that of its first shard.
        shards: in the order of the input.
    """

    name: str
    shards: tuple[InputShard, ...]


def shard_groups(shards: Sequence[InputShard], at_once: int) -> list[ShardGroup]:
    """Divide the input into groups of ``at_once`` shards; the last may be smaller."""
    groups = [tuple(shards[start : start + at_once]) for start in range(0, len(shards), at_once)]
    return [ShardGroup(group[0].name, group) for group in groups]


@dataclass(frozen=True)
class Plan:
    """How to resume a group.

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
        """Plan a group.

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
        """The decoded images."""
        return [event for event in self.events if isinstance(event, Ready)]

    @property
    def image_bytes(self) -> int:
        """Size of the encoded images."""
        return sum(len(ready.item.image) for ready in self.images)

    def without_pixels(self) -> Batch:
        """Return the batch without decoded pixels, which are many times as large as the encoded images."""
        return Batch([Ready(each.shard, each.item, {}) if isinstance(each, Ready) else each for each in self.events])


def batches(events: Iterable[Event], plan: Plan, batch_size: int) -> Iterator[Batch]:
    """Yield the batches that the shards of ``plan`` need, up to the end of the last of them.

    Args:
        events: of the group from ``plan.first`` on.
        plan: how to resume the group.
        batch_size: images in a batch; the last of a group may have fewer.
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
