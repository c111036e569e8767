"""Statements about pairs of images, as in NLVR2, each true or false."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vlkit.datasets.shapes.scene import COLORS, SHAPES, Scene, article, sample_scene

_TOTALS = ("two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Statement:
    """A sentence about a pair of scenes, whether it is true, and its kind (one of KINDS)."""

    left: Scene
    right: Scene
    sentence: str
    label: bool
    kind: str


def make_statement(rng: np.random.Generator, kind: str | None = None) -> Statement:
    """Sample a pair with a sentence about it. The label is sampled before the sentence, so that no sentence is more
    often true than false.

    Args:
        kind: one of KINDS; None samples it.

    Raises:
        ValueError: no such kind.
    """
    if kind is None:
        kind = KINDS[int(rng.integers(len(KINDS)))]
    if kind not in _MAKERS:
        raise ValueError(f"no statement is of kind {kind!r}; kinds are {', '.join(KINDS)}")
    label = bool(rng.random() < 0.5)
    left, right, sentence = _MAKERS[kind](rng, label)
    return Statement(left, right, sentence, label, kind)


Made = tuple[Scene, Scene, str]


def _look(rng: np.random.Generator) -> tuple[str, str]:
    return COLORS[int(rng.integers(len(COLORS)))], SHAPES[int(rng.integers(len(SHAPES)))]


def _phrase(look: tuple[str, str]) -> str:
    return article(" ".join(look))


def _having(scene: Scene, look: tuple[str, str], rng: np.random.Generator) -> Scene:
    """Return ``scene`` with an object of this color and shape, which replaces another one if needed."""
    if any((o.color, o.shape) == look for o in scene.objects):
        return scene
    return _with_look(scene, int(rng.integers(len(scene.objects))), *look)


def _lacking(scene: Scene, look: tuple[str, str], rng: np.random.Generator) -> Scene:
    """Return ``scene`` without that object, but with one of its color or of its shape."""
    scene = _having(scene, look, rng)
    index = next(i for i, o in enumerate(scene.objects) if (o.color, o.shape) == look)
    taken = {(o.color, o.shape) for o in scene.objects}
    while True:
        color, shape = _look(rng)
        other = (look[0], shape) if rng.random() < 0.5 else (color, look[1])
        if other not in taken:
            return _with_look(scene, index, *other)


def _with_look(scene: Scene, index: int, color: str, shape: str) -> Scene:
    changed = replace(scene.objects[index], color=color, shape=shape)
    return replace(scene, objects=(*scene.objects[:index], changed, *scene.objects[index + 1 :]))


def _contain(
    rng: np.random.Generator, looks: tuple[tuple[str, str], tuple[str, str]], options: tuple[tuple[bool, bool], ...]
) -> tuple[Scene, Scene]:
    """Sample two scenes, each of which does or does not contain its object, as one of ``options`` says."""
    holds = options[int(rng.integers(len(options)))] if len(options) > 1 else options[0]
    scenes = [(_having if has else _lacking)(sample_scene(rng), look, rng) for has, look in zip(holds, looks)]
    return scenes[0], scenes[1]


# False mostly because of one image alone: then neither image suffices to decide.
_ONE_OF_TWO = ((True, False), (False, True))
_CONTAIN = {
    "both": ("both images contain", ((True, True),), _ONE_OF_TWO),
    "exactly_one": ("exactly one image contains", _ONE_OF_TWO, ((True, True), (False, False))),
    "neither": ("neither image contains", ((False, False),), _ONE_OF_TWO),
}


def _containing(kind: str) -> Callable[[np.random.Generator, bool], Made]:
    """Return the maker of statements about one object in both images."""
    words, true, false = _CONTAIN[kind]

    def make(rng: np.random.Generator, label: bool) -> Made:
        look = _look(rng)
        return (*_contain(rng, (look, look), true if label else false), f"{words} {_phrase(look)}")

    return make


def _each(rng: np.random.Generator, label: bool) -> Made:
    """One object in the left image and another in the right; false if one of the two is missing."""
    one, two = _look(rng), _look(rng)
    scenes = _contain(rng, (one, two), ((True, True),) if label else _ONE_OF_TWO)
    return (*scenes, f"the left image contains {_phrase(one)} and the right image contains {_phrase(two)}")


def _more(rng: np.random.Generator, label: bool) -> Made:
    wanted = ("more", "fewer")[int(rng.integers(2))]
    while True:
        a, b = (rng.integers(1, 4, 2)).tolist()
        if a != b and ((a > b) == (wanted == "more")) == label:
            sides = sample_scene(rng, a), sample_scene(rng, b)
            return (*sides, f"the left image has {wanted} shapes than the right image")


def _total(rng: np.random.Generator, label: bool) -> Made:
    total = int(rng.integers(3, 6))
    while True:
        a, b = (rng.integers(1, 4, 2)).tolist()
        if (a + b == total) == label:
            return sample_scene(rng, a), sample_scene(rng, b), f"there are {_TOTALS[total - 2]} shapes in total"


def _same(rng: np.random.Generator, label: bool) -> Made:
    count = int(rng.integers(1, 4))
    other = count if label else int(rng.choice([n for n in (1, 2, 3) if n != count]))
    return sample_scene(rng, count), sample_scene(rng, other), "both images have the same number of shapes"


_MAKERS: dict[str, Callable[[np.random.Generator, bool], Made]] = {
    **{kind: _containing(kind) for kind in _CONTAIN},
    "each": _each,
    "more": _more,
    "total": _total,
    "same_number": _same,
}
KINDS = tuple(_MAKERS)
