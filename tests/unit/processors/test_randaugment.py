from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from tests.unit.processors.pictures import noise, scene
from vlkit.errors import ConfigError
from vlkit.processors.randaugment import (
    BLIP_AUGS,
    OPERATIONS,
    RandomAugment,
    arguments,
    auto_contrast,
    brightness,
    color,
    contrast,
    equalize,
    operate,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
)

SCENE = scene()
DIM = (SCENE // 3 + 40).astype(np.uint8)


def difference(a: np.ndarray, b) -> int:
    return int(np.abs(a.astype(int) - np.asarray(b).astype(int)).max())


@pytest.mark.parametrize("image", [SCENE, DIM, noise(17, 5), np.full((4, 4, 3), 9, np.uint8)])
def test_operations_are_pillows(image):
    pil = Image.fromarray(image)
    assert difference(auto_contrast(image), ImageOps.autocontrast(pil)) == 0
    assert difference(equalize(image), ImageOps.equalize(pil)) == 0
    for threshold in (0, 100, 256):
        assert difference(solarize(image, threshold), ImageOps.solarize(pil, threshold)) == 0
    for bits in (1, 4, 8):
        assert difference(posterize(image, bits), ImageOps.posterize(pil, bits)) == 0
    for factor in (0.0, 0.4, 1.0, 1.9):
        assert difference(brightness(image, factor), ImageEnhance.Brightness(pil).enhance(factor)) <= 1
        assert difference(contrast(image, factor), ImageEnhance.Contrast(pil).enhance(factor)) <= 2
        assert difference(color(image, factor), ImageEnhance.Color(pil).enhance(factor)) <= 2
        sharp = np.asarray(ImageEnhance.Sharpness(pil).enhance(factor))
        assert difference(sharpness(image, factor)[1:-1, 1:-1], sharp[1:-1, 1:-1]) <= 2


def test_auto_contrast_can_cut_off_both_ends():
    ramp = np.repeat(np.arange(100, 200, dtype=np.uint8), 3).reshape(10, 10, 3)
    stretched = auto_contrast(ramp, 10)
    assert (stretched.reshape(-1, 3)[:11] == 0).all()
    assert (stretched.reshape(-1, 3)[-11:] == 255).all()
    assert stretched.reshape(-1, 3)[50].tolist() == [int(40 * 255 / 79)] * 3


def test_original_reproduces_its_mistakes():
    assert (auto_contrast(DIM, original=True) == 255).all()
    red = np.zeros((3, 3, 3), np.uint8)
    red[..., 0] = 200
    assert color(red, 0.0)[0, 0].tolist() == [59] * 3  # 0.299 x 200
    assert color(red, 0.0, original=True)[0, 0].tolist() == [22] * 3  # 0.114 x 200
    assert contrast(red, 0.0)[0, 0, 0] == 59
    assert contrast(red, 0.0, original=True)[0, 0, 0] == 22
    dot = np.full((3, 3, 3), 250, np.uint8)
    dot[1, 1] = 255
    # Smoothed to round((8 x 250 + 5 x 255) / 13) = 252; 252 + 3 x (255 - 252) = 261.
    assert sharpness(dot, 3.0)[1, 1, 0] == 255
    assert sharpness(dot, 3.0, original=True)[1, 1, 0] == 261 - 256


def test_operate_hands_original_to_those_that_know_it():
    assert (operate("AutoContrast", DIM, original=True) == 255).all()
    np.testing.assert_array_equal(operate("AutoContrast", DIM), auto_contrast(DIM))
    np.testing.assert_array_equal(operate("Solarize", DIM, 60, original=True), solarize(DIM, 60))


def test_directions_of_geometric_operations():
    image, fill = noise(6, 7), (1, 2, 3)
    np.testing.assert_array_equal(translate_x(image, 2, fill)[:, :-2], image[:, 2:])
    np.testing.assert_array_equal(translate_x(image, 2, fill)[:, -2:], np.broadcast_to(fill, (6, 2, 3)))
    np.testing.assert_array_equal(translate_y(image, -1, fill)[1:], image[:-1])
    sheared = shear_x(image, 1, fill)
    for row in range(6):
        np.testing.assert_array_equal(sheared[row, row:], image[row, : 7 - row])
    sheared = shear_y(image, 1, fill)
    for column in range(6):
        np.testing.assert_array_equal(sheared[column:, column], image[: 6 - column, column])
    np.testing.assert_array_equal(rotate(image, 180, fill)[1:, 1:], image[::-1, ::-1][:-1, :-1])


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(OPERATIONS)),
    level=st.floats(0, 10),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
    original=st.booleans(),
)
def test_operations_keep_shape_type_and_input(name, level, height, width, seed, original):
    image = noise(height, width, seed)
    before = image.copy()
    image.flags.writeable = False
    out = operate(name, image, *arguments(name, level, np.random.default_rng(seed)), original=original)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


def test_draws_are_even_and_half_are_left_out():
    rng, augment = np.random.default_rng(0), RandomAugment(2, 5, BLIP_AUGS)
    draws = [augment.draw(rng) for _ in range(4000)]
    names = [name for draw in draws for name, *_ in draw]
    assert abs(len(names) / 8000 - 0.5) < 0.02
    for name in BLIP_AUGS:
        assert abs(names.count(name) / len(names) - 0.1) < 0.02
    degrees = [args[0] for draw in draws for name, *args in draw if name == "Rotate"]
    assert set(degrees) == {-15.0, 15.0}
    assert abs(degrees.count(15.0) / len(degrees) - 0.5) < 0.1


def test_the_generator_decides_everything():
    augment, image = RandomAugment(3, 9), SCENE
    results = [augment(image, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(results[0], results[1])
    assert difference(results[0], results[2]) > 0
    np.testing.assert_array_equal(RandomAugment(0)(image, np.random.default_rng(0)), image)


def test_wrong_arguments_are_all_reported():
    with pytest.raises(ConfigError) as caught:
        RandomAugment(-1, 11, ["Rotat", "Identity"])
    message = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "'Rotat'. Did you mean 'Rotate'" in message
    assert "level: 11; it must lie between 0 and 10" in message
