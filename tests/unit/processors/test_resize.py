from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torchvision.transforms import RandomResizedCrop

from tests.unit.processors.pictures import encoded, noise, scene
from vlkit.processors.resize import open_tensor, random_box, square

PHOTO = data.astronaut()


def check_close(source, size, choose_box=None) -> None:
    exact, fast = (square(source, size, method, choose_box).astype(int) for method in ("pil", "fast"))
    assert np.abs(exact - fast).mean() <= 1
    assert np.abs(exact - fast).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(512, 512), (333, 500), (97, 31), (20, 260)])
def test_fast_stays_close_to_pillow_on_photographs(kind, shape):
    image = Image.fromarray(PHOTO[: shape[0], : shape[1]])
    options = {"quality": 90} if kind == "JPEG" else {}
    file = encoded(image, kind, **options)
    for size in (48, 224, 384):
        check_close(file, size)
    top, left, height, width = shape[0] // 5, shape[1] // 7, shape[0] // 2, shape[1] // 2
    check_close(file, 100, lambda h, w: (top, left, height, width))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 70), st.integers(0, 9), st.sampled_from([0, 1, 2]))
def test_fast_stays_close_to_pillow_on_noise(height, width, size, seed, kind):
    image = noise(height, width, seed)
    if kind == 1:
        image = (image > 127).astype(np.uint8) * 255
    check_close(image if kind == 0 else encoded(image, "PNG"), size)


def test_width_is_resized_before_height_whatever_pillow_prefers():
    image = (noise(200, 50) > 127).astype(np.uint8) * 255
    pil = Image.fromarray(image)
    width_first = np.asarray(pil.resize((64, 200), 3).resize((64, 64), 3)).astype(int)
    height_first = np.asarray(pil.resize((50, 64), 3).resize((64, 64), 3)).astype(int)
    np.testing.assert_array_equal(square(image, 64, "pil"), width_first)
    assert np.abs(square(image, 64, "fast") - width_first).max() <= 2
    assert np.abs(height_first - width_first).max() > 10


def test_pillow_is_followed_exactly():
    image = Image.fromarray(PHOTO)
    expected = np.asarray(image.crop((10, 20, 110, 90)).resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(square(PHOTO, 64, "pil", lambda h, w: (20, 10, 70, 100)), expected)


@pytest.mark.parametrize("method", ["pil", "fast"])
def test_a_picture_of_the_right_size_is_left_alone(method):
    image = noise(24, 24)
    assert square(image, 24, method) is image
    for source in (Image.fromarray(image), encoded(image, "PNG")):
        np.testing.assert_array_equal(square(source, 24, method), image)
    box = square(image, 24, method, lambda h, w: (0, 0, 12, 12))
    assert box.shape == (24, 24, 3)
    assert not np.array_equal(box, image)


def test_fast_decodes_jpeg_by_itself_and_nothing_else(monkeypatch):
    def refuse(*args):
        raise AssertionError("decoded by Pillow")

    monkeypatch.setattr("vlkit.processors.resize.open_image", refuse)
    assert open_tensor(encoded(scene(), "JPEG")).shape == (3, 30, 44)
    for file in (encoded(Image.fromarray(scene()).convert("CMYK"), "JPEG"), encoded(scene(), "PNG")):
        with pytest.raises(AssertionError):
            open_tensor(file)


@settings(deadline=None, max_examples=100)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    low=st.floats(0.05, 1),
    high=st.floats(0.05, 1),
    seed=st.integers(0, 999),
)
def test_boxes_lie_inside_with_the_asked_area_and_ratio(height, width, low, high, seed):
    scale, ratio = sorted((low, high)), (3 / 4, 4 / 3)
    rng = np.random.default_rng(seed)
    top, left, h, w = random_box(height, width, scale, ratio, rng)
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    assert h >= 1
    assert w >= 1
    # Half a pixel of rounding on each side; pictures too long for the ratio give their middle.
    if min(height, width) >= 30 and 0.8 <= height / width <= 1.25:
        slack = 1 + 1 / h + 1 / w
        whole = (h, w) == (height, width)  # what is left when ten candidates did not fit
        assert whole or scale[0] / slack <= h * w / (height * width) <= scale[1] * slack
        assert ratio[0] / slack <= w / h <= ratio[1] * slack


@pytest.mark.parametrize(("height", "width"), [(1000, 1000), (400, 1000)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    scale, ratio = (0.5, 1.0), (3 / 4, 4 / 3)
    rng, image = np.random.default_rng(0), torch.empty(3, height, width)
    ours = np.array([random_box(height, width, scale, ratio, rng) for _ in range(3000)])
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(3000)])
    # The standard error of a difference of means is below 2% of the spread.
    spread = theirs.std(axis=0) + 1
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 0.1 * spread).all()
    assert (np.abs(ours.std(axis=0) - theirs.std(axis=0)) < 0.1 * spread).all()


def test_a_box_that_never_fits_is_the_largest_in_the_middle():
    rng = np.random.default_rng(0)
    assert random_box(10, 1000, (1.0, 1.0), (3 / 4, 4 / 3), rng) == (0, 493, 10, 13)
    top, left, h, w = random_box(1000, 9, (1.0, 1.0), (3 / 4, 4 / 3), rng)
    assert (left, h, w) == (0, 12, 9)
    assert top == math.floor((1000 - 12) / 2)
