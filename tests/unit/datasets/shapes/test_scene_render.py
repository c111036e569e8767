from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import vlkit.datasets.shapes.scene as render_module
from tests.unit.datasets.shapes.worlds import ONE, PLAIN, THREE, scenes
from vlkit.datasets.shapes.scene import (
    COLORS,
    CONTRAST,
    RADIUS,
    RGB,
    SHAPES,
    SIZES,
    TEXTURES,
    TONE_RGB,
    TONES,
    Background,
    Scene,
    SceneObject,
    render,
    render_batch,
)


def test_objects_have_their_color_at_their_place_and_the_tone_elsewhere():
    image = render(THREE, 48)
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    assert tuple(image[12, 12]) == RGB["red"]
    assert tuple(image[round(0.45 * 48), 36]) == RGB["blue"]
    assert tuple(image[36, round(0.3 * 48)]) == TONE_RGB[0]  # the hole of the ring
    assert tuple(image[47, 47]) == TONE_RGB[0]


@pytest.mark.parametrize("size", [32, 48, 64, 97])
def test_the_same_scene_at_every_size(size):
    image = render(THREE, size)
    assert image.shape == (size, size, 3)
    for thing in THREE.objects[:2]:
        assert tuple(image[int(thing.y * size), int(thing.x * size)]) == RGB[thing.color]
    red = (image == np.array(RGB["red"], np.uint8)).all(-1)
    # A disc and a ring of the same radius; the border pixels are mixed, hence the tolerance.
    covered = np.pi * RADIUS["large"] ** 2 * (2 - 0.55**2)
    assert red.mean() == pytest.approx(covered, rel=0.35)


def test_borders_are_antialiased_and_the_area_is_exact():
    white = Scene((SceneObject("circle", "white", "large", 0.503, 0.497),), PLAIN)
    image = render(white, 48)[..., 0].astype(float)
    coverage = (image - 128) / (250 - 128)
    assert coverage.sum() == pytest.approx(np.pi * (RADIUS["large"] * 48) ** 2, rel=0.01)
    assert ((coverage > 0.1) & (coverage < 0.9)).sum() > 10


def test_a_shape_moves_by_fractions_of_a_pixel():
    centers = []
    for x in (0.5, 0.5 + 0.25 / 48, 0.5 + 0.5 / 48):
        image = render(Scene((SceneObject("star", "white", "small", x, 0.5),), PLAIN), 48)[..., 0] - 128.0
        centers.append((image.sum(0) * np.arange(48)).sum() / image.sum())
    assert np.diff(centers) == pytest.approx([0.25, 0.25], abs=0.02)


@pytest.mark.parametrize("size", SIZES)
def test_shapes_are_clearly_different(size):
    masks = []
    for shape in SHAPES:
        image = render(Scene((SceneObject(shape, "white", size, 0.5, 0.5),), PLAIN), 48)[..., 0]
        masks.append((image - 128.0) / 122)
    for a, b in itertools.combinations(masks, 2):
        different = float(np.abs(a - b).sum() / np.maximum(a, b).sum())
        assert different > 0.2


def test_no_background_has_the_color_of_an_object():
    for texture, tone in itertools.product(TEXTURES, range(TONES)):
        image = render(replace(ONE, objects=(), background=Background(texture, tone, 3)), 48).astype(int)
        assert np.ptp(image, axis=(0, 1)).max() <= 2 * CONTRAST + 1
        assert (np.ptp(image, axis=(0, 1)).max() == 0) == (texture == "plain")
        for color in COLORS:
            assert np.abs(image - np.array(RGB[color])).sum(-1).min() > 100


def test_rendering_twice_gives_the_same_image_and_batches_agree():
    some = scenes(20)
    batch = render_batch(some, 48)
    assert (batch == np.stack([render(scene, 48) for scene in some])).all()


def test_objects_near_the_border_are_whole():
    radius = RADIUS["large"]
    middle = render(Scene((SceneObject("circle", "white", "large", 0.5, 0.5),), PLAIN), 48)[..., 0] - 128.0
    corner = Scene((SceneObject("circle", "white", "large", radius + 0.02, 1 - radius - 0.02),), PLAIN)
    assert (render(corner, 48)[..., 0] - 128.0).sum() == pytest.approx(middle.sum(), rel=0.01)


def test_rendering_again_computes_no_mask_or_pattern():
    some = scenes(300)
    first = render_batch(some, 48)
    caches = (render_module._mask, render_module._pattern)
    before = [each.cache_info().misses for each in caches]
    np.testing.assert_array_equal(render_batch(some, 48), first)
    assert [each.cache_info().misses for each in caches] == before
