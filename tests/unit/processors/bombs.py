"""Image files that are small and cost much: what the limits are for."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.unit.processors.pictures import encoded


def scan_bomb(width: int, height: int, scans: int, progressive: bool = True) -> bytes:
    """A gray or colored JPEG whose last scan is repeated until there are ``scans``."""
    mode = "L" if progressive else "RGB"
    data = encoded(Image.new(mode, (width, height), 90), "JPEG", progressive=progressive)
    end, first = data.rindex(b"\xff\xd9"), data.index(b"\xff\xda")
    if progressive:
        last = data.rindex(b"\xff\xc4")  # its table, its header, its data
        return data[:end] + data[last:end] * (scans - data.count(b"\xff\xda")) + data[end:]
    # One scan a channel, as sequential files may have, in place of one for all.
    channels = [data[first + 5 + 2 * i : first + 7 + 2 * i] for i in range(3)]
    one = [b"\xff\xda\x00\x08\x01" + channel + b"\x00\x3f\x00" + b"\x00" * 8 for channel in channels]
    return data[:first] + b"".join(one[i % 3] for i in range(scans)) + data[end:]


def exif_bomb(tags: int, size: int) -> bytes:
    """An EXIF block whose tags all point to the same ``size`` bytes."""
    head = 8 + 2 + 12 * tags + 4
    entries = [struct.pack("<HHII", 0x9000 + i if i else 0x010E, 7, size, head) for i in range(tags)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + b"".join(entries) + b"\0" * 4 + b"\0" * size


def png_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    made = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def png_with(*extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of 4 x 4 black pixels with more chunks in front of the pixels."""
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 52)
    return png_chunks((b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b""))


def gif_with_comment(blocks: int) -> bytes:
    """A GIF with a comment of many blocks in front of the pixels."""
    data = encoded(Image.new("P", (4, 4)), "GIF")
    at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 13)
    return data[:at] + b"\x21\xfe" + (b"\xff" + b"c" * 255) * blocks + b"\0" + data[at:]


def webp_canvas(width: int, height: int) -> bytes:
    """An animated WebP whose canvas is much larger than its frames."""
    frames = [Image.new("RGBA", (8, 8), (1, 2, shade, 100)) for shade in (3, 200)]
    data = bytearray(encoded(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:]))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes = b"") -> bytes:
    """A TIFF of any tags: number to (type, values); ``data`` lies at 8."""
    sizes = {1: "B", 3: "H", 4: "I"}
    values, entries, at = b"", b"", 8 + len(data)
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}{sizes[kind]}", *numbers)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", at + len(values))
        values += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + place
    directory = struct.pack("<H", len(tags)) + entries + b"\0" * 4
    return b"II*\0" + struct.pack("<I", at + len(values)) + data + values + directory


def run_length_bmp(side: int) -> bytes:
    """A BMP of runs of one pixel, the most work for its decoder; ``side`` is a multiple of 4."""
    rows = (b"\x01\x07" * side + b"\0\0") * side
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + head + bytes(1024) + rows


def photograph_of(megapixels: int, kind: str = "JPEG") -> bytes:
    """A plain picture of that many million pixels, encoded in a second or two."""
    height = megapixels * 50
    buffer = io.BytesIO()
    strip = np.zeros((height, 20_000), np.uint8)
    Image.fromarray(strip).save(buffer, kind)
    return buffer.getvalue()
