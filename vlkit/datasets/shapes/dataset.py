"""The dataset ``shapes``: images of procedural scenes with clean or web-like captions.

Every scene is a function of (seed, split, index), which seed its generator. Different splits and seeds are different
random streams: no scene of one occurs in another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

import numpy as np

from vlkit.datasets.base import Sample, VLDataset
from vlkit.datasets.shapes.captions import (
    exchanged,
    paraphrases,
    plan_caption,
    realize,
    reversed_relation,
    swapped,
    web_caption,
)
from vlkit.datasets.shapes.questions import Question
from vlkit.datasets.shapes.scene import DATA_VERSION, Scene, render, sample_scene, stream
from vlkit.errors import DataError, did_you_mean
from vlkit.registry import DATASETS
from vlkit.registry.bounds import Range, UnitInterval

ShapesSize = Annotated[int, Range(1, 100_000_000)]
"""Number of samples; the order of an epoch is kept in memory."""
ShapesSeed = Annotated[int, Range(0, 2**32 - 1)]
ShapesSide = Annotated[int, Range(16, 4_096)]
SPLITS = ("train", "val", "test")
CAPTIONS = ("clean", "web")
# Purposes of a generator: the fourth word of its key.
SCENE, TEXT, WEB, HEAD = range(4)


class ToyDataset(VLDataset):
    """Base of the toy datasets: arguments, random streams and pixels.

    Args:
        split: "train", "val" or "test".
        size: number of samples.
        seed: of the data, below 2**32.
        image_size: side of the images, pixels, at least 16.
        image_processor: called with (uint8 array [H, W, 3], generator); None scales to [-1, 1], float32 [3, H, W].
        text_processor: called with each text that a model reads (not with references).

    Raises:
        DataError: an argument is out of its range.
    """

    splits = SPLITS

    def __init__(
        self,
        split: str = "train",
        size: ShapesSize = 20000,
        seed: ShapesSeed = 0,
        image_size: ShapesSide = 48,
        image_processor: Any = None,
        text_processor: Any = None,
    ):
        choose("split", split, SPLITS)
        within("size", size, 1)
        within("seed", seed, 0, 2**32 - 1)
        within("image_size", image_size, 16)
        self.split, self.size, self.seed, self.image_size = split, size, seed, image_size
        self.image_processor, self.text_processor = image_processor, text_processor

    def __len__(self) -> int:
        return self.size

    @property
    def training(self) -> bool:
        """Whether this is the training split."""
        return self.split == "train"

    def scene(self, index: int) -> Scene:
        """Return the scene of sample ``index``."""
        return sample_scene(self.stream(index, SCENE))

    def stream(self, index: int, purpose: int) -> np.random.Generator:
        """Return the generator of sample ``index`` for one of SCENE, TEXT, WEB, HEAD."""
        return stream(self.seed, SPLITS.index(self.split), index, purpose)

    def media(self) -> None:
        """Return None: images are rendered."""

    def fingerprint(self) -> str:
        """Return the version of the data and every argument that changes them."""
        shown = {k: v for k, v in vars(self).items() if isinstance(v, (str, int, float))}
        arguments = ",".join(f"{key}={value}" for key, value in sorted(shown.items()))
        return f"{type(self).__name__}:v{DATA_VERSION}:{arguments}"

    def _image(self, scene: Scene, rng: np.random.Generator) -> Any:
        pixels = render(scene, self.image_size)
        if self.image_processor is not None:
            return self.image_processor(pixels, rng)
        import torch

        return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1)

    def _images(self, scenes: Sequence[Scene], rng: np.random.Generator) -> Any:
        """Render scenes as [len(scenes), 3, H, W]."""
        import torch

        return torch.stack([self._image(scene, rng) for scene in scenes])

    def _text(self, text: str) -> str:
        return text if self.text_processor is None else self.text_processor(text)

    def _question(self, asked: Question) -> Sample:
        text = self._text(asked.question)
        return {"text_input": text, "answers": [asked.answer], "weights": [1.0], "kind": asked.kind}

    def _ids(self, index: int) -> Sample:
        identity = f"{self.split}-{self.seed}-{index}"
        return {"image_id": identity, "sample_id": identity}


@DATASETS.register("shapes")
class Shapes(ToyDataset):
    """Images with captions.

    A sample holds ``image``, ``text_input``, ``image_id``, ``sample_id``, ``kind`` ("clean" for a true text, else the
    kind of noise) and ``scene`` (plain data for :func:`vlkit.datasets.shapes.checker.check`). Outside the training
    split it also holds ``references`` (true captions, first the text of a clean sample) and ``negatives``, false
    versions of the clean text if they exist: ``swapped`` (one attribute has another value), ``exchanged`` (two objects
    exchange their colors) and ``reversed`` (the opposite relation).

    In training a clean caption is sampled with the generator given to :meth:`sample`. A web text is a fixed property of
    the image, as in a crawled pair.

    Args:
        split: "train", "val" or "test"; see the module.
        size: number of samples.
        seed: of the data, below 2**32.
        image_size: side of the images, pixels, at least 16.
        captions: "clean" or "web".
        noise: share of web texts that are not a true caption, in [0, 1].
        unique: whether no two samples have objects of the same colors and shapes (single objects: and sizes), so that
            no caption fits two of them. Scenes that repeat an earlier one are skipped, so ``scene(i)`` differs from
            that of the plain dataset.
        references: number of reference captions outside the training split, at least 1; a scene has at least 8
            wordings, and fewer references are given if it has fewer wordings.
        image_processor: called with (uint8 array [H, W, 3], generator); None scales to [-1, 1], float32 [3, H, W].
        text_processor: called with ``text_input`` and the negatives.

    Raises:
        DataError: an argument is out of its range.
    """

    def __init__(
        self,
        split: str = "train",
        size: ShapesSize = 20000,
        seed: ShapesSeed = 0,
        image_size: ShapesSide = 48,
        captions: str = "clean",
        noise: UnitInterval = 0.5,
        unique: bool = False,
        references: Annotated[int, Range(1, 1_000)] = 5,
        image_processor: Any = None,
        text_processor: Any = None,
    ):
        super().__init__(split, size, seed, image_size, image_processor, text_processor)
        choose("captions", captions, CAPTIONS)
        within("noise", noise, 0, 1, whole=False)
        within("references", references, 1)
        if unique and (captions == "web" or split == "train"):
            raise DataError(
                f"shapes: unique=True is for clean captions of split 'val' or 'test', not for "
                f"captions={captions!r} of split {split!r}. Leave it out, or change captions or split."
            )
        self.captions, self.noise, self.unique, self.references = captions, noise, unique, references

    def scene(self, index: int) -> Scene:
        return sample_scene(self.stream(self._place(index), SCENE))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        scene, kind = self.scene(index), "clean"
        sample: Sample = {"image": self._image(scene, rng), **self._ids(index), "scene": scene.to_dict()}
        if self.training:
            text = realize(plan_caption(scene, rng))
        else:
            references, negatives = self._texts(index, scene)
            text = references[0]
            sample["references"] = references
            sample["negatives"] = {name: self._text(negative) for name, negative in negatives.items()}
        if self.captions == "web":
            text, kind = web_caption(scene, self.stream(index, WEB), self.noise)
        return {**sample, "kind": kind, "text_input": self._text(text)}

    def _texts(self, index: int, scene: Scene) -> tuple[list[str], dict[str, str]]:
        """Return references, and false versions of the first one."""
        rng = self.stream(self._place(index), TEXT)
        plan = plan_caption(scene, rng)
        made = {
            "swapped": swapped(plan, scene, rng),
            "exchanged": exchanged(plan, scene, rng),
            "reversed": reversed_relation(plan, scene),
        }
        negatives = {name: text for name, text in made.items() if text is not None}
        first = realize(plan)
        others = [text for text in paraphrases(scene, rng, self.references) if text != first]
        return [first, *others][: self.references], negatives

    def _place(self, index: int) -> int:
        """Return the position of sample ``index`` in the random stream."""
        return self._unique_places[index] if self.unique else index

    @cached_property
    def _unique_places(self) -> list[int]:
        places: list[int] = []
        seen: set[Any] = set()
        for place in range(100 * self.size):
            scene = sample_scene(self.stream(place, SCENE))
            if scene.signature not in seen:
                seen.add(scene.signature)
                places.append(place)
            if len(places) == self.size:
                return places
        raise DataError(
            f"shapes: only {len(places)} of size={self.size} unique scenes were found: choose a smaller size"
        )


def choose(name: str, given: Any, allowed: tuple[str, ...]) -> None:
    """Raise a DataError unless ``given`` is one of ``allowed``."""
    if given not in allowed:
        known = ", ".join(repr(a) for a in allowed)
        raise DataError(f"shapes: {name}={given!r} is not one of {known}.{did_you_mean(str(given), allowed)}")


def within(name: str, given: Any, low: float, high: float | None = None, whole: bool = True) -> None:
    """Raise a DataError unless ``given`` is a number (a ``whole`` one) from ``low`` to ``high``."""
    number = isinstance(given, int if whole else (int, float)) and not isinstance(given, bool)
    if not number or not low <= given or not given <= (math.inf if high is None else high):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise DataError(f"shapes: {name}={given!r} is not a {'whole ' if whole else ''}number {allowed}.")
