"""Render scenes to anti-aliased pixels: cached masks are blended into cached textures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from vlkit.datasets.shapes.scene import RADIUS, VARIANTS, Background, Scene, SceneObject

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
