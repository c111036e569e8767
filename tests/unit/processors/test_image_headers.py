from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.processors.bombs import scan_bomb
from tests.unit.processors.pictures import encoded, noise, scene
from vlkit.processors.image_headers import MAX_SCANS, MAX_SEGMENTS, count_scans, read_jpeg

SCENE = scene()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("mode", "options", "channels", "scans"),
    [
        ("RGB", {}, 3, 1),
        ("RGB", {"progressive": True}, 3, 10),
        ("L", {}, 1, 1),
        ("L", {"progressive": True}, 1, 6),
        ("CMYK", {}, 4, 1),
        ("RGB", {"restart_marker_blocks": 1}, 3, 1),
        ("RGB", {"restart_marker_rows": 1, "progressive": True}, 3, 10),
    ],
)
def test_frame_and_scans_are_read(mode, options, channels, scans):
    found = read_jpeg(encoded(Image.fromarray(SCENE).convert(mode), "JPEG", **options))
    assert (found.width, found.height, found.channels, found.bits) == (44, 30, channels, 8)
    assert (found.scans, found.orientation, found.arithmetic) == (scans, 1, False)


def test_metadata_are_left_out_and_no_pixel_changes():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description " * 100
    for mode in ("RGB", "CMYK", "L"):
        image = Image.fromarray(SCENE).convert(mode)
        data = encoded(image, "JPEG", exif=exif, comment=b"\xff\xd9 end", icc_profile=b"profile" * 20_000)
        found = read_jpeg(data)
        assert found.orientation == 6
        assert len(found.data) < len(data) - 140_000
        np.testing.assert_array_equal(pixels(found.data), pixels(data))
    plain = encoded(SCENE, "JPEG")
    assert read_jpeg(plain).data is plain


def test_scans_hidden_behind_segments_are_counted():
    """An end marker inside a segment is no end; what stands there is skipped by its length."""
    data = scan_bomb(16, 16, 8)
    hidden = data.replace(b"\xff\xc4", b"\xff\xfe\x00\x06\xff\xd9\xff\xda\xff\xc4")
    assert hidden != data
    assert read_jpeg(hidden).scans == read_jpeg(data).scans == 8
    np.testing.assert_array_equal(pixels(hidden), pixels(data))


def test_a_thumbnail_or_an_appended_file_is_no_scan():
    thumbnail = encoded(noise(20, 20), "JPEG", progressive=True)
    data = encoded(SCENE, "JPEG", progressive=True, exif=b"Exif\0\0" + thumbnail)
    assert read_jpeg(data).scans == read_jpeg(data + thumbnail * 30).scans == 10


@pytest.mark.parametrize("progressive", [True, False])
def test_counting_ends_at_the_limit(progressive):
    assert read_jpeg(scan_bomb(16, 16, MAX_SCANS, progressive)).scans == MAX_SCANS
    assert read_jpeg(scan_bomb(16, 16, 5000, progressive)).scans == MAX_SCANS + 1
    assert count_scans(scan_bomb(16, 16, 30, progressive)) == 30


def test_floods_of_segments_end_at_the_limit():
    data = encoded(SCENE, "JPEG", progressive=True)
    first, second = (data.index(b"\xff\xda", at) for at in (0, data.index(b"\xff\xda") + 2))
    for place in (2, data.rindex(b"\xff\xc4", first, second)):
        flooded = data[:place] + b"\xff\xfe\x00\x02" * 200_000 + data[place:]
        assert read_jpeg(flooded).segments > MAX_SEGMENTS
    assert read_jpeg(data[:2] + b"\xff" * 5_000_000 + data[2:]).scans == 10  # fill bytes


@pytest.mark.parametrize("end", [2, 3, 20, 200, 500])
def test_a_file_that_ends_before_its_pixels_gives_nothing(end):
    assert read_jpeg(encoded(SCENE, "JPEG")[:end]) is None


@settings(deadline=None, max_examples=200)
@given(data=st.data(), progressive=st.booleans())
def test_no_bytes_make_it_fail(data, progressive):
    content = bytearray(encoded(noise(9, 9), "JPEG", progressive=progressive))
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    read_jpeg(bytes(content[: data.draw(st.integers(0, len(content)))]))
    read_jpeg(b"\xff\xd8\xff" + data.draw(st.binary(max_size=60)))
