"""Every shortcut of the image transforms beside its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.processors.pictures import encoded, noise, scene
from vlkit.processors.image import BlipImageTrain, Normalize
from vlkit.processors.randaugment import (
    apply_tables,
    auto_contrast,
    brightness,
    contrast,
    equalize,
    solarize,
    value_counts,
)
from vlkit.processors.warp import rotation, warp_affine

FILL = (128, 20, 255)


def fixed_point(image: np.ndarray, matrix, fill) -> np.ndarray:
    """A warp by its definition: positions in 1/1024 pixel, rounded to 1/32, one target pixel after the other."""
    (a, b, c), (d, e, f) = matrix
    determinant = a * e - b * d
    scale = 1 / determinant if determinant else 0.0
    a, b, d, e = e * scale, -b * scale, -d * scale, a * scale
    c, f = -a * c - b * f, -d * c - e * f
    height, width = image.shape[:2]
    out = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            x = (round(a * column * 1024) + round((b * row + c) * 1024) + 16) >> 5
            y = (round(d * column * 1024) + round((e * row + f) * 1024) + 16) >> 5
            total = np.full(3, 512)
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (y % 32 if i else 32 - y % 32) * (x % 32 if j else 32 - x % 32)
                there = (y >> 5) + i, (x >> 5) + j
                inside = 0 <= there[0] < height and 0 <= there[1] < width
                total += weight * np.array(image[there] if inside else fill, dtype=int)
            out[row, column] = total >> 10
    return out


amounts = st.one_of(st.floats(-0.9, 0.9), st.integers(-3, 3).map(float))
shifts = st.one_of(st.floats(-15, 15), st.integers(-15, 15).map(float))
matrices = st.one_of(
    st.tuples(amounts, shifts, shifts).map(lambda m: ((1.0, m[0], m[1]), (0.0, 1.0, m[2]))),
    st.tuples(amounts, shifts, shifts).map(lambda m: ((1.0, 0.0, m[1]), (m[0], 1.0, m[2]))),
    st.tuples(amounts, shifts).map(lambda m: ((1.0, m[0], m[1]), (0.0, 1.0, 0.0))),
    st.tuples(amounts, shifts).map(lambda m: ((1.0, 0.0, 0.0), (m[0], 1.0, m[1]))),
    st.floats(-180, 180).map(lambda degrees: rotation(degrees, 7, 9)),
    st.tuples(*[amounts] * 4, shifts, shifts)
    .filter(lambda m: m[0] * m[3] == m[1] * m[2] or abs(m[0] * m[3] - m[1] * m[2]) > 0.01)
    .map(lambda m: ((m[0], m[1], m[4]), (m[2], m[3], m[5]))),
)


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 9), st.integers(1, 9), matrices, st.integers(0, 99), st.booleans())
def test_warps_of_every_kind_follow_the_fixed_point_rule(height, width, matrix, seed, strided):
    image = noise(width, height, seed).transpose(1, 0, 2) if strided else noise(height, width, seed)
    np.testing.assert_array_equal(warp_affine(image, matrix, FILL), fixed_point(image, matrix, FILL))


def test_a_cached_rotation_is_not_changed_by_its_use():
    image = noise(20, 30)
    first, again = (warp_affine(image, rotation(15, 20, 30), FILL) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, warp_affine(image, rotation(-15, 20, 30), FILL))


images = st.tuples(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 99), st.integers(1, 9), st.integers(0, 200)
).map(lambda n: np.minimum(noise(*n[:3]) // np.uint8(n[3]) + n[4], 255).astype(np.uint8))


@settings(deadline=None, max_examples=60)
@given(images, st.integers(0, 2**32 - 1))
def test_tables_and_counts_are_those_of_numpy(image, seed):
    tables = np.random.default_rng(seed).uniform(-300, 600, (3, 256))
    cut = tables.clip(0, 255).astype(np.uint8)
    counts, found = value_counts(image), apply_tables(image, tables)
    for channel in range(3):
        np.testing.assert_array_equal(counts[channel], np.bincount(image[..., channel].ravel(), minlength=256))
        np.testing.assert_array_equal(found[..., channel], cut[channel][image[..., channel]])
    np.testing.assert_array_equal(apply_tables(image, tables[0]), cut[0][image])
    assert apply_tables(image, np.arange(256.0) + 0.5) is image


def stretched(channel: np.ndarray, cutoff: float, original: bool) -> np.ndarray:
    ordered, cut = np.sort(channel.ravel()), int(cutoff * channel.size // 100)
    low, high = int(ordered[cut]), int(ordered[-1 - cut])
    if high <= low:
        return channel
    start = low - 256 if original and cut == 0 and low else low
    scale = 255 / (high - low)
    return (channel * scale - start * scale).clip(0, 255).astype(np.uint8)


def flattened(channel: np.ndarray) -> np.ndarray:
    step = int((channel != channel.max()).sum()) // 255
    if not step:
        return channel
    below = np.array([(channel < value).sum() for value in range(256)])
    return ((step // 2 + below) // step).clip(0, 255).astype(np.uint8)[channel]


@settings(deadline=None, max_examples=80)
@given(images, st.integers(1, 8), st.floats(0, 40), st.floats(0, 2), st.integers(0, 256), st.booleans())
def test_point_operations_equal_their_definitions(image, repeat, cutoff, factor, threshold, original):
    image = np.tile(image, (repeat, 4, 1))  # so that histograms have something to flatten
    for cut in (0, cutoff):
        by_channel = [stretched(image[..., i], cut, original) for i in range(3)]
        np.testing.assert_array_equal(auto_contrast(image, cut, original=original), np.stack(by_channel, -1))
    np.testing.assert_array_equal(equalize(image), np.stack([flattened(image[..., i]) for i in range(3)], -1))
    bright = (image.astype(np.float32) * np.float32(factor)).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(brightness(image, factor), bright)
    np.testing.assert_array_equal(solarize(image, threshold), np.where(image < threshold, image, 255 - image))
    weights = (0.114, 0.587, 0.299) if original else (0.299, 0.587, 0.114)
    mean = np.sum(image.mean(axis=(0, 1)) * np.array(weights))
    wanted = ((image - mean) * factor + mean).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(contrast(image, factor, original=original), wanted)


SOURCES = {
    "RGB": lambda image: encoded(image, "PNG"),
    "JPEG": lambda image: encoded(image, "JPEG", quality=95),
    "gray": lambda image: encoded(image.convert("L"), "JPEG"),
    "alpha": lambda image: encoded(_with_alpha(image), "PNG"),
    "16 bits": lambda image: encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"),
    "palette": lambda image: encoded(image.convert("P"), "PNG"),
    "decoded": lambda image: image,
    "array": np.asarray,
}


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(image.convert("L"))
    return image


@pytest.mark.parametrize("kind", SOURCES)
@settings(deadline=None, max_examples=15)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 50), st.integers(0, 999))
def test_the_fast_transform_stays_within_two_levels_of_the_exact_one(kind, height, width, size, seed):
    source = SOURCES[kind](Image.fromarray(scene(height, width)))
    exact, fast = (
        BlipImageTrain(size, mean=0, std=1, randaugment=False, resize=method)(source, np.random.default_rng(seed))
        for method in ("pil", "fast")
    )
    assert (exact - fast).abs().max() <= 2.01 / 255


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 999), st.booleans())
def test_normalizing_equals_three_steps(height, width, seed, mirrored):
    pixels = noise(height, width, seed)
    pixels = pixels[:, ::-1] if mirrored else pixels
    mean, std = np.float32([0.48, 0.45, 0.4]), np.float32([0.26, 0.25, 0.27])
    steps = (torch.tensor(pixels.copy()).float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    assert torch.equal(Normalize(mean.tolist(), std.tolist())(pixels), steps.permute(2, 0, 1))
