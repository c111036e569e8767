from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.unit.processors.bombs import exif_bomb
from vlkit.processors.image_headers import claimed_bytes, exif_orientation, xmp_orientation


def block(orientation: int, endian: str) -> bytes:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010E], exif[0x0112], exif[0x0131] = "some text", orientation, "software"
    return exif.tobytes()


@pytest.mark.parametrize("endian", ["<", ">"])
def test_orientation_is_found(endian):
    for orientation in range(1, 9):
        with_head = block(orientation, endian)
        assert exif_orientation(with_head) == exif_orientation(with_head[6:]) == orientation
    assert exif_orientation(block(9, endian)) is None


def test_xmp_says_it_too():
    assert xmp_orientation(b'<x tiff:Orientation="6"/>') == xmp_orientation(b"<tiff:Orientation>6<") == 6
    assert xmp_orientation(b'<x tiff:Orientation="0"/>') is None


def test_overlapping_tags_are_added_up():
    assert claimed_bytes(exif_bomb(1000, 50_000)) == 50_000_000
    assert claimed_bytes(block(6, "<")[6:]) < 100
    assert exif_orientation(exif_bomb(1000, 50_000)) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_read(content):
    for start in (b"II*\0", b"MM\0*", b"Exif\0\0II*\0", b""):
        assert exif_orientation(start + content) in (None, *range(1, 9))
        assert claimed_bytes(start + content) >= 0
