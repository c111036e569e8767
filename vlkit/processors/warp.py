"""Affine warps of uint8 images in the fixed-point bilinear arithmetic of OpenCV 4.

Reproducing that arithmetic to the bit keeps augmentation equal to the original's without depending on OpenCV,
whose later versions round differently.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_POSITION_BITS = 10  # source positions are rounded to 1/1024 pixel, each of the two summands on its own,
_FRACTION_BITS = 5  # then to 1/32 pixel
_STEPS = 1 << _FRACTION_BITS
_FIELD_BITS = 20  # one channel: 8 bits of value and 10 bits of weight fit

Matrix = Sequence[Sequence[float]]


def rotation(degrees: float, height: int, width: int) -> Matrix:
    """The matrix (2 x 3, source to target) that turns an image about its centre.

    Args:
        degrees: counter-clockwise as seen.
        height, width: of the image, in pixels.
    """
    x, y = width / 2, height / 2
    cos, sin = math.cos(degrees * math.pi / 180), math.sin(degrees * math.pi / 180)
    return (cos, sin, (1 - cos) * x - sin * y), (-sin, cos, sin * x + (1 - cos) * y)


def warp_affine(image: np.ndarray, matrix: Matrix, fill: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """``image`` moved by ``matrix``, at the same size.

    Args:
        image: uint8 [H, W, 3].
        matrix: 2 x 3, maps a source position (x, y, 1) to its target.
        fill: value 0..255 per channel of what lies outside the source.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    x, x_fraction, y, y_fraction = _source_positions(_inverse(matrix), height, width)

    # Two pixels of fill on every side: a neighbourhood that is wholly outside has somewhere to point.
    stride = width + 4
    padded = np.full((height + 4, stride), _pack(np.array(fill)), dtype=np.int64)
    padded[2:-2, 2:-2] = _pack(image)
    padded = padded.ravel()
    corner = (np.clip(y, -2, height) + 2) * stride + (np.clip(x, -2, width) + 2)

    # The three channels of a pixel travel in one integer: each neighbour is fetched and weighted once.
    top = padded[corner] * (_STEPS - x_fraction) + padded[corner + 1] * x_fraction
    corner += stride
    bottom = padded[corner] * (_STEPS - x_fraction) + padded[corner + 1] * x_fraction
    half = 1 << (2 * _FRACTION_BITS - 1)
    return _unpack(top * (_STEPS - y_fraction) + bottom * y_fraction + _pack(np.full(3, half)))


def _inverse(matrix: Matrix) -> tuple[float, ...]:
    (a, b, c), (d, e, f) = matrix
    determinant = a * e - b * d
    scale = 1 / determinant if determinant else 0.0
    a, b, d, e = e * scale, -b * scale, -d * scale, a * scale
    return a, b, -a * c - b * f, d, e, -d * c - e * f


def _source_positions(inverse: tuple[float, ...], height: int, width: int) -> tuple[np.ndarray, ...]:
    """Whole pixel and fraction (1/32 pixel) of x and of y, each [H, W]: the origin of each target pixel."""
    a, b, c, d, e, f = inverse
    unit = 1 << _POSITION_BITS
    to_fraction = _POSITION_BITS - _FRACTION_BITS
    columns, rows = np.arange(width), np.arange(height)
    positions = []
    for per_column, per_row, shift in ((a, b, c), (d, e, f)):
        along = np.rint(per_column * columns * unit).astype(np.int64)
        down = np.rint((per_row * rows + shift) * unit).astype(np.int64) + (1 << (to_fraction - 1))
        fixed = (down[:, None] + along) >> to_fraction
        positions += [fixed >> _FRACTION_BITS, fixed & (_STEPS - 1)]
    return tuple(positions)


def _pack(pixels: np.ndarray) -> np.ndarray:
    wide = pixels.astype(np.int64)
    return wide[..., 0] | wide[..., 1] << _FIELD_BITS | wide[..., 2] << 2 * _FIELD_BITS


def _unpack(weighted: np.ndarray) -> np.ndarray:
    out = np.empty((*weighted.shape, 3), dtype=np.uint8)
    for channel in range(3):
        # The cast keeps the low 8 bits: the value, freed of its weight and of the channels above it.
        out[..., channel] = (weighted >> (channel * _FIELD_BITS + 2 * _FRACTION_BITS)).astype(np.uint8)
    return out
