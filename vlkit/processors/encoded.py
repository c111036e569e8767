"""Check image files before they are decoded: their format, and whether decoding stays within the limits.

A small file can keep a decoder busy for minutes or fill the memory: by its size in pixels, by scans of a JPEG, tiles of
a TIFF, metadata that overlap, or millions of empty blocks. Each is bounded here, by what the headers say, so that a
picture within the limits takes a second or two.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlkit.errors import BadSample
from vlkit.processors.file_kinds import FORMATS, kind_of
from vlkit.processors.image_headers import (
    MAX_SCANS,
    MAX_SEGMENTS,
    JpegHeader,
    claimed_bytes,
    count_scans,
    exif_orientation,
    read_jpeg,
    webp_size,
    xmp_orientation,
)

MAX_PIXELS = 250_000_000
"""A gigabyte in Pillow. The largest cameras on sale take 240 megapixels."""
SCANS_OF_ALL = 6
"""Scans that a JPEG of ``max_pixels`` may have. Smaller ones may have more, up to ``MAX_SCANS``; encoders write 10."""
_MAX_TILES = 100_000
_SLOW = {"WEBP": 2, "AVIF": 4, "JPEG2000": 8}
"""Approximate decoding time of a pixel, relative to JPEG."""
_IN_PYTHON = {"ppm": 400, "ppm_plain": 400, "bmp_rle": 200}
"""The same for what Pillow decodes without native code."""


class TooLarge(BadSample):
    """A picture beyond a limit, which may be a decompression bomb."""

    def __reduce__(self):
        return (TooLarge, (self.source, self.reason))


@dataclass(frozen=True)
class Opened:
    """An image file that has not been decoded.

    Args:
        image: as Pillow sees it.
        orientation: of EXIF, 1 to 8; 1 also where Pillow turns the picture itself.
        jpeg: its markers, where it is one.
    """

    image: Image.Image
    orientation: int
    jpeg: JpegHeader | None


def open_encoded(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Opened:
    """Read the header of an image file, and refuse what is beyond the limits. Call it, and decode, inside of
    :func:`~vlkit.processors.open_image.pillow_without_limits`.

    Raises:
        TooLarge: it is beyond a limit.
        BadSample: it is no image, or of a format that is not read.
    """
    jpeg = jpeg_header(data, name, max_pixels)
    if data.startswith(b"\0\0\0") and data[4:8] == b"ftyp":
        _check_exif_of_avif(data, name)
    if size := webp_size(data):
        check_size(*size, name, max_pixels, _SLOW["WEBP"], "WEBP")
    try:
        image = Image.open(_Metered(jpeg.data if jpeg else data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise BadSample(name, unknown(data, name)) from error
    _check(image, data, name, max_pixels)
    return Opened(image, jpeg.orientation if jpeg else _orientation(image), jpeg)


def jpeg_header(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> JpegHeader | None:
    """Return the markers of a JPEG file; None for other formats.

    Raises:
        TooLarge: it is beyond a limit.
        BadSample: its markers are damaged.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    jpeg = read_jpeg(data)
    if jpeg is None:
        raise BadSample(name, "cannot be decoded: a JPEG file that is damaged or truncated before its pixels begin")
    if jpeg.segments > MAX_SEGMENTS:
        raise TooLarge(name, f"more than {MAX_SEGMENTS:,} marker segments in a JPEG file (decompression bomb?)")
    check_size(jpeg.width, jpeg.height, name, max_pixels, 4 if jpeg.arithmetic else 1)
    if jpeg.scans > MAX_SCANS:
        raise TooLarge(name, f"a JPEG of more than {MAX_SCANS} scans (decompression bomb?)")
    _check_scans(jpeg.scans * jpeg.width * jpeg.height, f"{jpeg.scans} scans", name, max_pixels)
    return jpeg


def check_size(width: int, height: int, name: str, max_pixels: int, slow: float = 1, what: str = "") -> None:
    """Refuse a picture of more than ``max_pixels`` / ``slow``, or with a side of more than a thousandth of them.

    Args:
        width, height: in pixels.
        name: of the picture, for the message.
        max_pixels: of a picture whose format is fast to decode.
        slow: how many times longer a pixel takes.
        what: the slow format, for the message.

    Raises:
        TooLarge: it has more.
    """
    allowed = int(max_pixels / slow)
    advice = "Set max_pixels of the image processor to admit it, or shrink it"
    if width * height > allowed:
        why = f" in {what}, which takes {slow:.2g} times as long as a JPEG" if what and slow > 1 else ""
        raise TooLarge(
            name,
            f"{width}x{height} pixels, more than the {allowed} allowed{why} (decompression bomb?). {advice}",
        )
    longest = max(max_pixels // 1000, 65_535)
    if max(width, height) > longest:
        raise TooLarge(name, f"{width}x{height} pixels, and a side of more than {longest} is not allowed. {advice}")


def unknown(data: bytes, name: str) -> str:
    """Explain why ``data`` cannot be read as an image."""
    for format in FORMATS:
        accept = Image.OPEN[format][1] if format in Image.OPEN else None
        if accept is not None and accept(data[:16]):
            return f"cannot be decoded: a {format} file whose header is damaged or truncated"
    kind = kind_of(data[:4096], name)
    if not kind:
        return f"not an image file: it starts with {data[:16]!r}, as no format that is read ({', '.join(FORMATS)})"
    advice = " Convert it." if kind.endswith("image") else ""
    return f"not an image file of a format that is read, but {kind}. Formats: {', '.join(FORMATS)}.{advice}"


class _Metered(io.BytesIO):
    """A file in memory that may be read a limited number of times: no valid picture takes more, while chains of empty
    blocks and overlapping metadata take millions of reads, or terabytes."""

    def __init__(self, data: bytes):
        super().__init__(data)
        # Comments of GIF are put together in time that grows with their square.
        self.reads = 4096 + len(data) // 16_384 if data[:3] == b"GIF" else 200_000 + len(data) // 512
        self.bytes = 16_000_000 + 8 * len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.reads -= 1
        self.bytes -= len(found)
        if self.reads < 0 or self.bytes < 0:
            raise _Exhausted
        return found


class _Exhausted(Exception):
    def __str__(self) -> str:
        return "more blocks or metadata than a picture of this size can have (decompression bomb?)"


def _check(image: Image.Image, data: bytes, name: str, max_pixels: int) -> None:
    format, (width, height) = image.format or "", image.size
    tiles: list[Any] = getattr(image, "tile", None) or []
    codec = str(tiles[0][0]) if tiles else ""
    wide = max(1, _bytes_of_pixel(tiles, image.mode) / 3)
    slow = _IN_PYTHON.get(codec) or _SLOW.get(format) or wide
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        slow *= 3  # it is laid on white
    check_size(width, height, name, max_pixels, slow, f"this kind of {format}" if codec in _IN_PYTHON else format)
    file = getattr(image, "fp", None)
    if codec in _IN_PYTHON and isinstance(file, _Metered):  # which reads byte by byte, within this limit
        file.reads += 8 * width * height
    if len(tiles) > _MAX_TILES:
        raise TooLarge(name, f"{len(tiles):,} tiles, more than the {_MAX_TILES:,} allowed (decompression bomb?)")
    if format == "TIFF":
        _check_tiff(image, data, name, max_pixels)


def _bytes_of_pixel(tiles: list[Any], mode: str) -> int:
    """Return the bytes of a pixel in a file of raw or deflated pixels."""
    raw = tiles[0][3] if tiles else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    channels = {"RGBA": 4, "RGBX": 4, "CMYK": 4, "RGB": 3, "LA": 2}.get(mode, 1)
    return channels * (2 if isinstance(raw, str) and ";16" in raw else 1)


_TILE_SIZE, _OFFSETS, _COUNTS = (322, 323), (324, 273), (325, 279)
_COMPRESSION, _ROWS, _JPEG = 259, 278, (6, 7)


def _check_tiff(image: Any, data: bytes, name: str, max_pixels: int) -> None:
    """Check sizes and numbers of tiles (or strips), and the scans in them."""
    tags = image.tag_v2

    def values(keys: tuple[int, int]) -> list[int]:
        found = next((tags[key] for key in keys if key in tags), ())
        found = found if isinstance(found, tuple) else (found,)
        return [value for value in found if isinstance(value, int)]

    width, height = image.size
    sides = [tags.get(key) for key in _TILE_SIZE]
    if all(isinstance(side, int) for side in sides):
        width, height = sides[0], sides[1]
        check_size(width, height, name, max_pixels)
    elif isinstance(tags.get(_ROWS), int):
        height = min(height, tags[_ROWS])
    offsets, counts = values(_OFFSETS), values(_COUNTS)
    if len(offsets) > _MAX_TILES:
        raise TooLarge(name, f"{len(offsets):,} tiles, more than the {_MAX_TILES:,} allowed (decompression bomb?)")
    if tags.get(_COMPRESSION) in _JPEG:
        if len(counts) != len(offsets) or sum(counts) > 2 * len(data):
            raise BadSample(name, "the JPEG tiles of a TIFF file overlap, or their lengths are missing")
        scans = sum(count_scans(data[at : at + size]) for at, size in zip(offsets, counts))
        _check_scans(scans * width * height, f"{scans} scans in TIFF tiles", name, max_pixels)


def _check_scans(pixels: int, what: str, name: str, max_pixels: int) -> None:
    allowed = SCANS_OF_ALL * max_pixels
    if pixels > allowed:
        raise TooLarge(
            name,
            f"{what} that pass {pixels} pixels, more than the {allowed} allowed, {SCANS_OF_ALL} times max_pixels of "
            "the image processor (decompression bomb?)",
        )


def _check_exif_of_avif(data: bytes, name: str) -> None:
    """Check the EXIF block of an AVIF file, which Pillow reads as a whole."""
    for mark in (b"II*\0", b"MM\0*"):
        at = data.find(mark)
        for _ in range(16):
            if at < 0:
                break
            if claimed_bytes(data[at:]) > 16_000_000 + 8 * len(data):
                raise TooLarge(name, str(_Exhausted()))
            at = data.find(mark, at + 4)


def _orientation(image: Image.Image) -> int:
    """Return the orientation of formats other than JPEG. Pillow turns TIFF itself."""
    if image.format == "TIFF":
        return 1
    exif, xmp = image.info.get("exif"), image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
    profile = image.info.get("Raw profile type exif")
    if exif is None and isinstance(profile, str):
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:  # broken metadata say nothing about the picture
            exif = None
    found = exif_orientation(exif) if isinstance(exif, bytes) else None
    if found is None and xmp:
        found = xmp_orientation(xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp)
    return found or 1
