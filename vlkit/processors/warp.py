"""Compute affine warps of uint8 images in the fixed-point bilinear arithmetic of OpenCV 4.

Reproducing that arithmetic to the bit keeps augmentation equal to the original's without depending on OpenCV,
whose later versions round differently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_POSITION_BITS = 10  # source positions are rounded to 1/1024 pixel, each of the two summands on its own,
_FRACTION_BITS = 5  # then to 1/32 pixel
_STEPS = 1 << _FRACTION_BITS
_FIELD_BITS = 20  # one channel: 8 bits of value and 10 bits of weight fit

Matrix = Sequence[Sequence[float]]


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """Return the matrix (2 x 3, source to target) that turns an image about its center.

    Args:
        degrees: counter-clockwise as seen.
        height, width: of the image, in pixels.
    """
    x, y = width / 2, height / 2
    cos, sin = math.cos(degrees * math.pi / 180), math.sin(degrees * math.pi / 180)
    return (cos, sin, (1 - cos) * x - sin * y), (-sin, cos, sin * x + (1 - cos) * y)


def warp_affine(image: np.ndarray, matrix: Matrix, fill: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """Move ``image`` by ``matrix``, at the same size.

    Args:
        image: uint8 [H, W, 3].
        matrix: 2 x 3, maps a source position (x, y, 1) to its target.
        fill: value 0..255 per channel of what lies outside the source.

    Returns:
        uint8 [H, W, 3].
    """
    inverse = _inverse(matrix)
    slide = _slide_of(inverse, *image.shape[:2])
    return _gather(image, inverse, fill) if slide is None else _slid(image, slide, fill)


def _inverse(matrix: Matrix) -> tuple[float, ...]:
    (a, b, c), (d, e, f) = matrix
    determinant = a * e - b * d
    scale = 1 / determinant if determinant else 0.0
    a, b, d, e = e * scale, -b * scale, -d * scale, a * scale
    return a, b, -a * c - b * f, d, e, -d * c - e * f


def _summands(inverse: tuple[float, ...], height: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for x and y of a target pixel's origin, the summands of its column [W] and row [H], in 1/1024 pixel."""
    a, b, c, d, e, f = inverse
    unit = 1 << _POSITION_BITS
    columns, rows = np.arange(width), np.arange(height)
    half = 1 << (_POSITION_BITS - _FRACTION_BITS - 1)
    return [
        (
            np.rint(per_column * columns * unit).astype(np.int64),
            np.rint((per_row * rows + shift) * unit).astype(np.int64) + half,
        )
        for per_column, per_row, shift in ((a, b, c), (d, e, f))
    ]


def _split(fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split into whole pixels, and the rest in 1/32 pixel, of positions in 1/1024 pixel."""
    fixed = fixed >> (_POSITION_BITS - _FRACTION_BITS)
    return fixed >> _FRACTION_BITS, fixed & (_STEPS - 1)


class _Slide(NamedTuple):
    """A warp that moves each line of pixels along itself, as shears and shifts by whole pixels do.

    Args:
        along: the axis along which lines move: 1 for rows.
        lines: which line of the source each target line shows, [lines].
        whole, fraction: by how much the origin lies further along, in pixels and 1/32 pixel, [lines].
    """

    along: int
    lines: np.ndarray
    whole: np.ndarray
    fraction: np.ndarray


def _slide_of(inverse: tuple[float, ...], height: int, width: int) -> _Slide | None:
    """Return the warp as a slide, or None if it is none."""
    (x_column, x_row), (y_column, y_row) = _summands(inverse, height, width)
    unit = 1 << _POSITION_BITS
    if not y_column.any() and (x_column == np.arange(width) * unit).all():
        along, across, fixed = 1, y_row, x_row
    elif np.ptp(x_row) == 0 and (np.diff(y_row) == unit).all():
        along, across, fixed = 0, x_column + x_row[0], y_column + y_row[0]
    else:
        return None
    lines, beside = _split(across)
    return None if beside.any() else _Slide(along, lines, *_split(fixed))


def _slid(image: np.ndarray, slide: _Slide, fill: Sequence[int]) -> np.ndarray:
    """Move ``image`` by ``slide``. Lines that move equally far are copied together."""
    along = slide.along
    length, count = image.shape[along], image.shape[1 - along]
    shape = list(image.shape)
    shape[along] += 1  # each pixel has a neighbor further on
    near = np.empty(shape, np.uint8)
    near.reshape(shape[0], -1)[:] = np.tile(np.array(fill, np.uint8), shape[1])
    whole = slide.whole.clip(-length - 1, length)
    step = np.stack([whole, slide.lines - np.arange(count)])
    starts = [0, *(np.flatnonzero(np.diff(step).any(axis=0)) + 1).tolist(), count]
    for start, stop in itertools.pairwise(starts):
        shift, across = step[:, start].tolist()
        first, last = max(start, -across), min(stop, count - across)
        begin, end = max(0, -shift), min(length + 1, length - shift)
        if first < last and begin < end:
            source = _part(along, begin + shift, end + shift, first + across, last + across)
            near[_part(along, begin, end, first, last)] = image[source]
    here, there = near[_part(along, 0, length, 0, count)], near[_part(along, 1, length + 1, 0, count)]
    if not slide.fraction.any():
        return np.ascontiguousarray(here)
    weight = slide.fraction.astype(np.uint16)
    weight = weight[:, None, None] if along else weight[None, :, None]
    # In 16 bits: differences may wrap around, their weighted sum comes out right.
    wide = here.astype(np.uint16)
    total = (there - wide) * weight + (wide << _FRACTION_BITS) + np.uint16(_STEPS // 2)
    return (total >> _FRACTION_BITS).astype(np.uint8)


def _part(along: int, begin: int, end: int, first: int, last: int) -> tuple[slice, slice]:
    """Index the pixels ``begin`` to ``end`` of lines ``first`` to ``last``."""
    return (slice(first, last), slice(begin, end)) if along else (slice(begin, end), slice(first, last))


def _gather(image: np.ndarray, inverse: tuple[float, ...], fill: Sequence[int]) -> np.ndarray:
    """Apply any warp to ``image``: four neighbors of each origin, weighted."""
    height, width = image.shape[:2]
    corner, weights = _neighbors(inverse, height, width)
    stride = width + 4
    # Two pixels of fill on every side: a neighborhood that is wholly outside has somewhere to point.
    padded = np.full((height + 4, stride), _pack(np.array(fill)), dtype=np.int64)
    padded[2:-2, 2:-2] = _pack(image)
    # The three channels of a pixel travel in one integer: each neighbor is fetched and weighted once.
    flat = padded.ravel()
    total = _pack(np.full(3, 1 << (2 * _FRACTION_BITS - 1)))
    for offset, weight in zip((0, 1, stride, stride + 1), weights):
        total = total + flat[offset:].take(corner) * weight
    return _unpack(total)


@lru_cache(maxsize=4)  # training turns by two angles only; each entry holds 40 bytes a pixel
def _neighbors(inverse: tuple[float, ...], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the upper left neighbor of each origin is in the padded image, int64 [H, W], and the weights of the
    four neighbors, int64 [4, H, W]."""
    (x_column, x_row), (y_column, y_row) = _summands(inverse, height, width)
    x, x_fraction = _split(x_row[:, None] + x_column)
    y, y_fraction = _split(y_row[:, None] + y_column)
    corner = (np.clip(y, -2, height) + 2) * (width + 4) + (np.clip(x, -2, width) + 2)
    weights = [v * h for v in (_STEPS - y_fraction, y_fraction) for h in (_STEPS - x_fraction, x_fraction)]
    return corner, np.stack(weights)


def _pack(pixels: np.ndarray) -> np.ndarray:
    wide = pixels.astype(np.int64)
    return wide[..., 0] | wide[..., 1] << _FIELD_BITS | wide[..., 2] << 2 * _FIELD_BITS


def _unpack(weighted: np.ndarray) -> np.ndarray:
    out = np.empty((*weighted.shape, 3), dtype=np.uint8)
    for channel in range(3):
        # The cast keeps the low 8 bits: the value, freed of its weight and of the channels above it.
        out[..., channel] = (weighted >> (channel * _FIELD_BITS + 2 * _FRACTION_BITS)).astype(np.uint8)
    return out
