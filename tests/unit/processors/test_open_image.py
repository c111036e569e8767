from __future__ import annotations

import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from tests.unit.processors.pictures import encoded, noise, png, scene
from vlkit.errors import BadSample
from vlkit.processors.open_image import open_image
from vlkit.processors.resize import open_tensor

SCENE = scene()


def both(source) -> np.ndarray:
    """The picture by the exact and by the fast way, which must agree."""
    image = open_image(source)
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    np.testing.assert_array_equal(open_tensor(source).permute(1, 2, 0).numpy(), pixels)
    return pixels


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    file = tmp_path / "scene.png"
    file.write_bytes(encoded(SCENE, "PNG"))
    sources = [file, str(file), file.read_bytes(), Image.open(file), Image.fromarray(SCENE), SCENE]
    sources += [torch.from_numpy(SCENE).permute(2, 0, 1), SCENE[:, ::-1][:, ::-1]]
    for source in sources:
        np.testing.assert_array_equal(both(source), SCENE)


def test_gray_arrays_and_tensors_become_rgb():
    gray = SCENE[..., 0]
    for source in (gray, gray[..., None], torch.from_numpy(gray), torch.from_numpy(gray)[None]):
        np.testing.assert_array_equal(both(source), np.stack([gray] * 3, axis=-1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_rotation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(SCENE, kind, exif=exif)
    plain = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(both(data), np.asarray(ImageOps.exif_transpose(plain)))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_senseless_exif_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(both(encoded(SCENE, "PNG", exif=exif)), SCENE)


def test_broken_exif_is_ignored():
    data = encoded(SCENE, "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00")
    np.testing.assert_array_equal(both(data), SCENE)


def test_cmyk_shows_its_colors():
    pixels = both(encoded(Image.fromarray(SCENE).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - SCENE).mean() < 6


def test_sixteen_bit_gray_is_scaled_not_clipped():
    values = np.array([[0, 128, 257, 32768, 65407, 65535]], dtype=np.uint16)
    pixels = both(encoded(Image.fromarray(values), "PNG"))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]
    assert pixels[0, :, 1].tolist() == pixels[0, :, 2].tolist() == pixels[0, :, 0].tolist()


def test_sixteen_bit_tiff_and_color_are_scaled():
    values = np.array([[0, 25700, 65535]], dtype=np.uint16)
    assert both(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 100, 255]
    color = png(1, 1, 16, 2, b"\x00" + np.array([65535, 25700, 0], dtype=">u2").tobytes())
    assert both(color)[0, 0].tolist() == [255, 100, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-100, 0, 155]], np.int32), [0, 100, 255]),
        (np.array([[0, 400_000, 1_020_000]], np.int32), [0, 100, 255]),
        (np.array([[0, 0.4, 1]], np.float32), [0, 102, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[-1, 0, np.nan, 1]], np.float32), [0, 128, 128, 255]),
        (np.array([[300, 300]], np.float32), [0, 0]),
    ],
)
def test_wide_values_in_memory_are_brought_to_8_bits(values, expected):
    assert np.asarray(open_image(Image.fromarray(values)))[0, :, 0].tolist() == expected


def test_palette_gray_and_bilevel():
    palette = Image.fromarray(SCENE).quantize(64)
    np.testing.assert_array_equal(both(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    gray = Image.fromarray(SCENE).convert("L")
    np.testing.assert_array_equal(both(encoded(gray, "PNG")), np.stack([np.asarray(gray)] * 3, axis=-1))
    bilevel = Image.fromarray(SCENE).convert("1")
    assert set(np.unique(both(encoded(bilevel, "PNG")))) == {0, 255}


def test_transparency_shows_white():
    rgba = np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])
    rgba[:10, :, 3], rgba[10:20, :, 3] = 0, 51
    for source in (encoded(rgba, "PNG"), rgba, torch.from_numpy(rgba).permute(2, 0, 1)):
        pixels = both(source)
        assert (pixels[:10] == 255).all()
        expected = 255 * 0.8 + SCENE[10:20] * 0.2
        assert np.abs(pixels[10:20] - expected).max() <= 1
        np.testing.assert_array_equal(pixels[20:], SCENE[20:])


def test_transparent_colors_and_palettes_show_white():
    flat = np.zeros((4, 4, 3), np.uint8)
    flat[:2] = (10, 20, 30)
    keyed = both(encoded(flat, "PNG", transparency=(10, 20, 30)))
    assert (keyed[:2] == 255).all()
    assert (keyed[2:] == 0).all()
    palette = Image.fromarray(flat).quantize(2)
    index = palette.getpixel((0, 0))
    shown = both(encoded(palette, "PNG", transparency=index))
    assert (shown[:2] == 255).all()
    assert (shown[2:] == 0).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(kind):
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = [Image.new("RGB", (8, 6), color) for color in colors]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.abs(both(data)[3, 4].astype(int) - colors[0]).max() <= 5


def bomb() -> bytes:
    return png(60_000, 60_000, 8, 2, b"\x00" * 100)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"hello, I am a text", "not an image file"),
        (encoded(scene(300, 300), "JPEG")[:3000], "cannot be decoded.*truncated"),
        (encoded(scene(300, 300), "PNG")[:400], "cannot be decoded"),
        (encoded(scene(), "PNG")[:20], "not an image file|cannot be decoded"),
        (bomb(), "decompression bomb"),
        (png(20_000, 20_000, 8, 2, b"\x00" * 100), r"20000x20000 pixels, more than the 250000000 allowed.*max_pixels"),
        ("missing/file.jpg", "no such file"),
        ("nul\x00byte.jpg", "cannot be read|no such file"),
        (".", "a folder"),
        (None, "not an image: give a path"),
        (SCENE.astype(np.float32), r"float32.*must be uint8"),
        (torch.rand(3, 8, 8), r"float32.*must be uint8"),
        (np.zeros((3, 8, 8, 3), np.uint8), r"must be \[H, W, 3\]"),
        (np.zeros((8, 8, 2), np.uint8), r"must be \[H, W, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (torch.zeros(3, 8, 0, dtype=torch.uint8), "no pixels"),
    ],
)
@pytest.mark.parametrize("reader", [open_image, open_tensor])
def test_what_cannot_be_shown_is_a_bad_sample(source, reason, reader):
    with pytest.raises(BadSample, match=reason) as caught:
        reader(source)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_limit_of_pixels_is_the_callers():
    assert open_image(SCENE, max_pixels=10).size == (44, 30)  # already in memory
    with pytest.raises(BadSample, match="44x30 pixels, more than the 10 allowed"):
        open_image(encoded(SCENE, "PNG"), max_pixels=10)


def test_the_path_is_named(tmp_path):
    file = tmp_path / "broken.jpg"
    file.write_bytes(encoded(SCENE, "JPEG")[:200])
    for reader in (open_image, open_tensor):
        with pytest.raises(BadSample) as caught:
            reader(file)
        assert caught.value.source == str(file)


def test_warnings_never_become_errors_and_pillow_is_left_as_it_was():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    palette = Image.fromarray(SCENE).quantize(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        pixels = both(encoded(palette, "PNG", transparency=bytes([0, 128, 255, 255, 255, 255, 255, 255])))
        with pytest.raises(BadSample, match="decompression bomb"):
            open_image(png(20_000, 20_000, 8, 2, b""))
        assert warnings.filters == filters
    assert pixels.shape == SCENE.shape
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert before == after


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]), data=st.data())
def test_damaged_files_give_a_picture_or_a_bad_sample(kind, data):
    content = bytearray(encoded(noise(20, 20), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    for reader in (open_image, open_tensor):
        try:
            image = reader(content)
        except BadSample:
            continue
        assert np.asarray(image).dtype == np.uint8


def test_a_picture_that_is_opened_twice_is_turned_once():
    image, exif = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)), Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    for source in (file.getvalue(), Image.open(io.BytesIO(file.getvalue()))):
        once = open_image(source)
        assert once.size == (4, 6)
        assert np.array_equal(np.asarray(open_image(once)), np.asarray(once))
