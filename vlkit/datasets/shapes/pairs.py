"""Statements about two images that are true or false of the pair (as in NLVR2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vlkit.datasets.shapes.captions import article
from vlkit.datasets.shapes.scene import COLORS, SHAPES, Scene, SceneObject, sample_scene

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
    """A random pair with a sentence about it. The label is drawn before the sentence, so that no sentence is
    more often true than false.

    Args:
        kind: one of KINDS; None draws it.

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
    """``scene`` with an object of this color and shape, put in the place of another if need be."""
    if any((o.color, o.shape) == look for o in scene.objects):
        return scene
    return _with_look(scene, int(rng.integers(len(scene.objects))), *look)


def _lacking(scene: Scene, look: tuple[str, str], rng: np.random.Generator) -> Scene:
    """``scene`` without that object, but mostly with one of its color or of its shape."""
    scene = _having(scene, look, rng)
    index = next(i for i, o in enumerate(scene.objects) if (o.color, o.shape) == look)
    taken = {(o.color, o.shape) for o in scene.objects}
    while True:
        color, shape = _look(rng)
        other = (look[0], shape) if rng.random() < 0.5 else (color, look[1])
        if other not in taken:
            return _with_look(scene, index, *other)


def _with_look(scene: Scene, index: int, color: str, shape: str) -> Scene:
    objects: list[SceneObject] = list(scene.objects)
    objects[index] = replace(objects[index], color=color, shape=shape)
    return replace(scene, objects=tuple(objects))


def _contain(rng: np.random.Generator, look: tuple[str, str], left: bool, right: bool) -> tuple[Scene, Scene]:
    """Two scenes that do or do not hold an object."""
    scenes = [(_having if has else _lacking)(sample_scene(rng), look, rng) for has in (left, right)]
    return scenes[0], scenes[1]


def _one_of(rng: np.random.Generator, *options: tuple[bool, bool]) -> tuple[bool, bool]:
    return options[int(rng.integers(len(options)))]


def _both(rng: np.random.Generator, label: bool) -> Made:
    look = _look(rng)
    # False mostly because of one image alone: then neither image suffices.
    holds = (True, True) if label else _one_of(rng, (True, False), (False, True))
    return (*_contain(rng, look, *holds), f"both images contain {_phrase(look)}")


def _exactly_one(rng: np.random.Generator, label: bool) -> Made:
    look = _look(rng)
    options = ((True, False), (False, True)) if label else ((True, True), (False, False))
    holds = _one_of(rng, *options)
    return (*_contain(rng, look, *holds), f"exactly one image contains {_phrase(look)}")


def _neither(rng: np.random.Generator, label: bool) -> Made:
    look = _look(rng)
    holds = (False, False) if label else _one_of(rng, (True, False), (False, True))
    return (*_contain(rng, look, *holds), f"neither image contains {_phrase(look)}")


def _each(rng: np.random.Generator, label: bool) -> Made:
    """One thing in the left image and another in the right; false where one of the two is missing."""
    one, two = _look(rng), _look(rng)
    holds = (True, True) if label else _one_of(rng, (True, False), (False, True))
    left = (_having if holds[0] else _lacking)(sample_scene(rng), one, rng)
    right = (_having if holds[1] else _lacking)(sample_scene(rng), two, rng)
    return left, right, f"the left image contains {_phrase(one)} and the right image contains {_phrase(two)}"


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
            return (
                sample_scene(rng, a),
                sample_scene(rng, b),
                f"there are {_TOTALS[total - 2]} shapes in total",
            )


def _same(rng: np.random.Generator, label: bool) -> Made:
    count = int(rng.integers(1, 4))
    other = count if label else int(rng.choice([n for n in (1, 2, 3) if n != count]))
    return sample_scene(rng, count), sample_scene(rng, other), "both images have the same number of shapes"


_MAKERS: dict[str, Callable[[np.random.Generator, bool], Made]] = {
    "both": _both,
    "exactly_one": _exactly_one,
    "neither": _neither,
    "each": _each,
    "more": _more,
    "total": _total,
    "same_number": _same,
}
KINDS = tuple(_MAKERS)
