from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.processors.pictures import noise
from vlkit.processors.warp import rotation, warp_affine

FILL = (10, 20, 30)


def bilinear(image: np.ndarray, matrix, fill) -> np.ndarray:
    """The same warp by definition: one target pixel after the other, in floats."""
    height, width = image.shape[:2]
    back = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))
    out = np.empty(image.shape)
    for y in range(height):
        for x in range(width):
            u, v, _ = back @ (x, y, 1)
            u, v = np.floor(u * 32 + 0.5) / 32, np.floor(v * 32 + 0.5) / 32
            left, top = int(np.floor(u)), int(np.floor(v))
            total = np.zeros(3)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(v - top - i)) * (1 - abs(u - left - j))
                inside = 0 <= top + i < height and 0 <= left + j < width
                total += weight * np.array(image[top + i, left + j] if inside else fill)
            out[y, x] = total
    return out


@pytest.mark.parametrize(
    "matrix",
    [
        rotation(17, 9, 12),
        rotation(-90, 9, 12),
        ((1, 0.3, 0), (0, 1, 0)),
        ((1, 0, 2.25), (-0.2, 1, -1.5)),
        ((0.5, 0, 3), (0, 0.5, 2)),
        ((1, 0, 100), (0, 1, 0)),
    ],
)
def test_equals_bilinear_interpolation_at_32nds_of_a_pixel(matrix):
    image = noise(9, 12)
    difference = np.abs(warp_affine(image, matrix, FILL) - bilinear(image, matrix, FILL))
    # Half a level, but where rounding the two summands of a position one by one moves it by a 32nd.
    assert (difference > 0.5001).mean() < 0.08
    assert difference.max() <= 255 / 32 + 1


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    right=st.integers(-15, 15),
    down=st.integers(-15, 15),
)
def test_whole_shifts_move_pixels_and_fill_the_rest(height, width, right, down):
    image = noise(height, width)
    moved = warp_affine(image, ((1, 0, right), (0, 1, down)), FILL)
    for y in range(height):
        for x in range(width):
            inside = 0 <= y - down < height and 0 <= x - right < width
            expected = image[y - down, x - right] if inside else FILL
            assert moved[y, x].tolist() == list(expected)


def test_turning_by_zero_changes_nothing_and_positive_is_counter_clockwise():
    image = noise(8, 8)
    np.testing.assert_array_equal(warp_affine(image, rotation(0, 8, 8)), image)
    # About the corner (4, 4) of pixels, not about the middle of the grid: row and column 0 come from outside.
    turned = warp_affine(image, rotation(90, 8, 8))
    np.testing.assert_array_equal(turned[1:], np.rot90(image)[:-1])


def test_extreme_values_do_not_spill_into_their_neighbors():
    image = np.zeros((6, 6, 3), np.uint8)
    image[..., 1] = 255
    warped = warp_affine(image, rotation(30, 6, 6), (0, 255, 0))
    np.testing.assert_array_equal(warped, image)
    np.testing.assert_array_equal(warp_affine(np.full_like(image, 255), ((1, 0, 0.5), (0, 1, 0.5)), (255,) * 3), 255)
