"""Scene graphs: objects with attributes and positions. Pixels and texts are derived from a :class:`Scene`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


RGB = {
    "red": (214, 24, 30),
    "orange": (255, 128, 0),
    "yellow": (255, 232, 20),
    "green": (10, 150, 40),
    "blue": (20, 60, 225),
    "purple": (150, 30, 190),
    "white": (250, 250, 250),
    "black": (8, 8, 8),
}
# Grayish and of middle brightness: far from every color above, white and black included.
TONE_RGB = ((128, 128, 128), (112, 120, 130), (142, 134, 122), (122, 132, 122), (106, 104, 112), (150, 148, 146))
CONTRAST = 16  # gray levels by which a texture departs from its tone, at most

_STEPS = 4  # sub-pixel positions per pixel and axis
_SAMPLES = 8  # coverage is sampled at this many points per pixel and axis


def render(scene: Scene, size: int = 48) -> NDArray[np.uint8]:
    """Render ``scene`` as uint8 [size, size, 3].

    Args:
        size: side in pixels; the scene is the same at every size.
    """
    canvas = _background(scene.background, size)
    for thing in scene.objects:
        _paint(canvas, thing, size)
    return (canvas + 0.5).astype(np.uint8)


def render_batch(scenes: Sequence[Scene], size: int = 48) -> NDArray[np.uint8]:
    """Render ``scenes`` as uint8 [len(scenes), size, size, 3]."""
    images = np.empty((len(scenes), size, size, 3), np.uint8)
    for i, scene in enumerate(scenes):
        images[i] = render(scene, size)
    return images


def _paint(canvas: NDArray[np.float32], thing: SceneObject, size: int) -> None:
    column, row = round(thing.x * size * _STEPS), round(thing.y * size * _STEPS)
    mask = _mask(thing.shape, thing.size, column % _STEPS, row % _STEPS, size)
    reach = mask.shape[0] // 2
    left, top = column // _STEPS - reach, row // _STEPS - reach
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], size), min(top + mask.shape[0], size)
    alpha = mask[y0 - top : y1 - top, x0 - left : x1 - left]
    patch = canvas[y0:y1, x0:x1]
    patch += alpha * (_color(thing.color) - patch)


@cache
def _color(name: str) -> NDArray[np.float32]:
    return np.array(RGB[name], np.float32)


@lru_cache(maxsize=4096)
def _mask(shape: str, kind: str, dx: int, dy: int, size: int) -> NDArray[np.float32]:
    """Return the coverage of each pixel in [0, 1], [2r, 2r, 1], for a center ``dx``, ``dy`` sub-steps past border r."""
    radius = RADIUS[kind] * size
    reach = int(np.ceil(radius * 1.2)) + 1
    points = (np.arange(2 * reach * _SAMPLES) + 0.5) / _SAMPLES - reach
    u = (points - dx / _STEPS)[None, :] / radius
    v = (points - dy / _STEPS)[:, None] / radius
    inside = _inside(shape, *np.broadcast_arrays(u, v))
    blocks = inside.reshape(2 * reach, _SAMPLES, 2 * reach, _SAMPLES)
    return blocks.mean(axis=(1, 3), dtype=np.float32)[:, :, None]


def _inside(shape: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether points lie in a shape of radius 1 around the origin (v grows downwards)."""
    if shape == "circle":
        return u * u + v * v <= 1
    if shape == "ring":
        squares = u * u + v * v
        return (squares <= 1) & (squares >= 0.55**2)
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.76
    if shape == "cross":
        return (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1)
    if shape == "triangle":
        return (v <= 0.75) & (abs(u) <= (v + 1) * 0.6)
    return _in_star(u, v)


def _in_star(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether points lie in a five-pointed star: by symmetry, one edge from a tip to the next notch decides."""
    radius = np.hypot(u, v)
    angle = np.abs((np.arctan2(u, -v) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)  # from the nearest tip
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    tip, notch = 1.12, 0.47
    notch_x, notch_y = notch * np.cos(np.pi / 5), notch * np.sin(np.pi / 5)
    return (tip - notch_x) * y <= (tip - x) * notch_y


def _background(background: Background, size: int) -> NDArray[np.float32]:
    tone = np.array(TONE_RGB[background.tone], np.float32)
    if background.texture == "plain":
        return np.broadcast_to(tone, (size, size, 3)).copy()
    return tone + _pattern(background.texture, background.variant, size)


@lru_cache(maxsize=256)
def _pattern(texture: str, variant: int, size: int) -> NDArray[np.float32]:
    """Return the deviation from the tone in gray levels, [size, size, 1], as a function of the image position."""
    place = (np.arange(size) + 0.5) / size
    x, y = np.broadcast_arrays(place[None, :], place[:, None])
    if texture == "noisy":
        grain = np.random.default_rng(variant).uniform(-1, 1, (24, 24))
        field = grain[np.minimum((y * 24).astype(int), 23), np.minimum((x * 24).astype(int), 23)]
    else:
        angle = np.pi * (variant % 4) / 4
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        waves = 3 + 2 * (variant // 4)
        if texture == "striped":
            field = np.clip(3 * np.sin(2 * np.pi * waves * along), -1, 1)
        elif texture == "checkered":
            field = np.clip(4 * np.sin(2 * np.pi * waves * along) * np.sin(2 * np.pi * waves * across), -1, 1)
        else:
            angle = 2 * np.pi * variant / VARIANTS
            field = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
            field = field / abs(field).max()
    return (CONTRAST * field).astype(np.float32)[:, :, None]
