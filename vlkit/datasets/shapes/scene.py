"""Scene graphs: objects with attributes and positions. Pixels and texts are derived from a :class:`Scene`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Increase it when a change alters the sample of any (seed, split, index): it is part of every fingerprint.
DATA_VERSION = 1

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "checkered", "noisy", "gradient")
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

# Lengths are fractions of the image side.
RADIUS = {"small": 0.105, "large": 0.175}
GAP = 0.05  # between two objects, and more than what a square's corner reaches beyond its radius
EDGE = 0.02
MARGIN = 0.1  # centers closer than this on an axis stand in no relation on that axis
TONES = 6
VARIANTS = 8
NUMBERS = ("one", "two", "three")

_COUNT_SHARES = (0.25, 0.65)  # cumulative: one object, two objects, else three
_REPEAT_SHARE = 0.2  # of objects that take the shape (or color) of the first, so that counting is worth asking


@dataclass(frozen=True)
class SceneObject:
    """One object.

    Args:
        shape: one of SHAPES.
        color: one of COLORS.
        size: one of SIZES.
        x: center, from the left, in [0, 1].
        y: center, from the top, in [0, 1].
    """

    shape: str
    color: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Background:
    """Background of a scene: grayish, so that no object has its color.

    Args:
        texture: one of TEXTURES.
        tone: index of the grayish tone, in [0, TONES).
        variant: form of the texture (such as width and direction of stripes), in [0, VARIANTS).
    """

    texture: str
    tone: int
    variant: int


@dataclass(frozen=True)
class Scene:
    """One to three objects, no two of the same color and shape, none touching another."""

    objects: tuple[SceneObject, ...]
    background: Background

    def to_dict(self) -> dict[str, Any]:
        """Return the scene as plain data for JSON; :meth:`from_dict` restores it."""
        return {"objects": [vars(o).copy() for o in self.objects], "background": vars(self.background).copy()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scene:
        """Restore a scene from :meth:`to_dict`."""
        return cls(tuple(SceneObject(**o) for o in data["objects"]), Background(**data["background"]))

    @property
    def signature(self) -> tuple[tuple[str, ...], ...]:
        """Return the content that captions distinguish: colors and shapes, and the size of a single object."""
        if len(self.objects) == 1:
            only = self.objects[0]
            return ((only.color, only.shape, only.size),)
        return tuple(sorted((o.color, o.shape) for o in self.objects))


def relations(a: SceneObject, b: SceneObject) -> tuple[str, ...]:
    """Return the RELATIONS of ``a`` to ``b``, that of the larger distance first; never empty in a scene."""
    dx, dy = a.x - b.x, a.y - b.y
    found = []
    if abs(dx) >= MARGIN:
        found.append((abs(dx), "left" if dx < 0 else "right"))
    if abs(dy) >= MARGIN:
        found.append((abs(dy), "above" if dy < 0 else "below"))
    return tuple(name for _, name in sorted(found, reverse=True))


def stream(*key: int) -> np.random.Generator:
    """Return a generator that depends only on ``key``: non-negative integers below 2**32, first the seed."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def sample_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """Sample a scene.

    Args:
        count: number of objects, 1 to 3; None samples it.
    """
    u = rng.random(22).tolist()
    if count is None:
        count = 1 + sum(u[0] >= share for share in _COUNT_SHARES)
    background = Background(TEXTURES[int(u[1] * len(TEXTURES))], int(u[2] * TONES), int(u[3] * VARIANTS))
    looks = _looks(u[4:], count)
    sizes = [size for _, _, size in looks]
    return Scene(tuple(SceneObject(*look, x, y) for look, (x, y) in zip(looks, _places(rng, sizes))), background)


def _looks(u: list[float], count: int) -> list[tuple[str, str, str]]:
    """Return (shape, color, size) of ``count`` objects from six uniform numbers each."""
    looks: list[tuple[str, str, str]] = []
    for i in range(count):
        a, b, c, d, e, f = u[6 * i : 6 * i + 6]
        shape, color = int(a * len(SHAPES)), int(b * len(COLORS))
        if looks and d < _REPEAT_SHARE:
            shape = SHAPES.index(looks[0][0])
        elif looks and e < _REPEAT_SHARE:
            color = COLORS.index(looks[0][1])
        while any(look[:2] == (SHAPES[shape], COLORS[color]) for look in looks):
            color = (color + 1 + int(c * (len(COLORS) - 1))) % len(COLORS)
            c = 0.0  # from here step by one, as a longer step could go round past a free color
        looks.append((SHAPES[shape], COLORS[color], SIZES[int(f * len(SIZES))]))
    return looks


def _places(rng: np.random.Generator, sizes: list[str]) -> list[tuple[float, float]]:
    """Sample centers uniformly such that objects of these sizes lie inside the image and apart."""
    radii = [RADIUS[size] for size in sizes]
    while True:
        u = rng.random(2 * len(radii) * 8).tolist()
        for start in range(0, len(u), 2 * len(radii)):
            places = []
            for i, radius in enumerate(radii):
                low, span = radius + EDGE, 1 - 2 * (radius + EDGE)
                places.append((low + span * u[start + 2 * i], low + span * u[start + 2 * i + 1]))
            if all(apart(places[i], radii[i], places[j], radii[j]) for i in range(len(radii)) for j in range(i)):
                return places


def apart(a: tuple[float, float], radius_a: float, b: tuple[float, float], radius_b: float) -> bool:
    """Return whether two objects with these centers and radii keep GAP between them."""
    least = radius_a + radius_b + GAP
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 >= least * least


@dataclass(frozen=True)
class Mention:
    """The attributes of an object that a text names; None: not named."""

    color: str | None
    shape: str | None
    size: str | None = None


def article(words: str) -> str:
    """Return ``words`` with their indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def name(thing: Mention | SceneObject, size: bool = True) -> str:
    """Return the named attributes in words ("large red circle"), "shape" for an unnamed shape."""
    words = (thing.size if size else None, thing.color, thing.shape or "shape")
    return " ".join(word for word in words if word)
