"""Small image files of many kinds, and damage to them: what a campaign feeds to everything that reads images."""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.unit.processors.bombs import exif_bomb, gif_with_comment, png_with, scan_bomb, tiff
from tests.unit.processors.pictures import encoded, noise, png, scene

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "OTHER")
_NUMBERS = (
    0,
    1,
    2,
    3,
    8,
    16,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
_DAMAGED_PNG = Path(__file__).parents[1] / "assets" / "damaged_idat.png"


def originals() -> dict[str, list[bytes]]:
    """Valid files (and a few bombs) by kind, the same in every process."""
    found = {
        "JPEG": _jpegs(),
        "PNG": _pngs(),
        "WEBP": _saved("WEBP", [{}, {"lossless": True}, {"exif": _exif()}], ("RGB", "RGBA"), animated=True),
        "GIF": _saved("GIF", [{}, {"interlace": 0}, {"transparency": 3}], ("P", "L"), animated=True),
        "BMP": [*_saved("BMP", [{}], ("RGB", "P", "L", "1", "RGBA")), _rle_bmp()],
        "TIFF": _tiffs(),
        "OTHER": [
            *_saved("PPM", [{}], ("RGB", "L", "1")),
            b"P3 4 4 255\n" + b"1 20 255 " * 16,
            b"P6 4 4 4095\n" + b"\x0f\x01" * 48,
            *_saved("AVIF", [{"speed": 10}], ("RGB", "RGBA")),
            *_saved("JPEG2000", [{}, {"irreversible": True}], ("RGB", "L", "RGBA")),
        ],
    }
    found["GIF"].append(gif_with_comment(3))
    return found


def mutant(rng: np.random.Generator, kind: str, pool: dict[str, list[bytes]]) -> bytes:
    """One of the files of ``kind``, damaged; sometimes a mixture with another one."""
    files = pool[kind]
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(min(rng.geometric(0.6), 5)):
        _damage(rng, data, files)
        if not data:
            break
    whole = bytes(data)
    if kind == "PNG" and rng.random() < 0.8:
        return _with_right_checksums(whole)
    if kind == "WEBP" and rng.random() < 0.7 and len(whole) > 8:
        return whole[:4] + struct.pack("<I", len(whole) - 8) + whole[8:]
    return whole


def _damage(rng: np.random.Generator, data: bytearray, others: list[bytes]) -> None:
    size = len(data)
    # Headers are short, and matter most.
    at = int(rng.integers(min(size, 300) if rng.random() < 0.5 else size)) if size else 0
    length = int(min(rng.geometric(0.05), size))
    match rng.integers(12):
        case 0 | 1 | 10:
            for place in rng.integers(size, size=rng.integers(1, 9)) if size else ():
                data[place] = rng.integers(256)
        case 2 | 3 | 11:
            width, order = rng.choice([1, 2, 4]), rng.choice(["little", "big"])
            number = _NUMBERS[rng.integers(len(_NUMBERS))] & (256 ** int(width) - 1)
            data[at : at + width] = number.to_bytes(int(width), str(order))[: max(0, size - at)]
        case 4:
            data[at : at + length] = bytes([rng.choice([0, 255])]) * min(length, size - at)
        case 5:
            del data[at:]
        case 6:
            del data[at : at + length]
        case 7:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 6))
        case 8:
            data[at:at] = rng.bytes(length)
        case _:
            other = others[rng.integers(len(others))]
            start = rng.integers(len(other))
            data[at:] = other[start:]


def _with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks are damaged, but not noticed by their checksums."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        end = at + 8 + int.from_bytes(fixed[at : at + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(fixed[at + 4 : end]))
        at = end + 4
    return bytes(fixed)


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    return exif.tobytes()


def _saved(format: str, options: list[dict], modes: tuple[str, ...], animated: bool = False) -> list[bytes]:
    """Files of all modes and options that this Pillow can write."""
    files = []
    for mode in modes:
        images = [Image.fromarray(noise(17, 23, seed)).convert(mode) for seed in range(3)]
        for each in options:
            with contextlib.suppress(OSError, KeyError, ValueError):
                files.append(encoded(images[0], format, **each))
                if animated:
                    files.append(encoded(images[0], format, save_all=True, append_images=images[1:], **each))
    return files


def _jpegs() -> list[bytes]:
    options: list[dict] = [
        {},
        {"subsampling": 0},
        {"progressive": True},
        {"progressive": True, "restart_marker_rows": 1},
        {"exif": _exif(), "comment": b"text", "icc_profile": b"profile" * 20},
        {"restart_marker_blocks": 1},
        {"quality": 5},
    ]
    files = _saved("JPEG", options, ("RGB", "L", "CMYK"))
    exif = encoded(scene(), "JPEG", exif=b"Exif\0\0" + exif_bomb(9, 40))
    return [*files, exif, scan_bomb(16, 16, 30), scan_bomb(16, 16, 9, progressive=False)]


def _pngs() -> list[bytes]:
    files = _saved("PNG", [{}, {"exif": _exif()}], ("RGB", "RGBA", "L", "LA", "P", "1"), animated=True)
    rows = b"".join(b"\1" + bytes(range(8 * 6)) for _ in range(8))
    files += [png(8, 8, 16, 2, rows), png(8, 8, 16, 0, rows[: 17 * 8]), png(8, 8, 2, 3, b"\0\x1b\xe4" * 8)]
    files.append(_interlaced(files[0]))
    bomb = zlib.compress(b"\0" * 3_000_000)
    files += [png_with((b"zTXt", b"key\0\0" + bomb)), png_with((b"iCCP", b"name\0\0" + bomb))]
    files.append(encoded(Image.fromarray(noise(9, 9)).quantize(16), "PNG", transparency=bytes(range(0, 160, 10))))
    files.append(_DAMAGED_PNG.read_bytes())
    return files


def _interlaced(data: bytes) -> bytes:
    """Marked as interlaced; the seven pictures in it are what the bytes happen to be."""
    changed = bytearray(data)
    changed[28] = 1
    return _with_right_checksums(bytes(changed))


def _rle_bmp() -> bytes:
    palette = b"".join(bytes([i, 255 - i, i // 2, 0]) for i in range(256))
    pixels = b"\x08\x07\0\0\0\x04\1\2\3\4\4\5\0\0\0\2\1\1\3\7\0\0\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(pixels), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(pixels), 0, 0, 54 + 1024) + head + palette + pixels


def _tiffs() -> list[bytes]:
    kinds = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd", "webp")
    files = _saved("TIFF", [{"compression": kind} for kind in kinds], ("RGB", "RGBA", "L", "P", "CMYK"))
    files += _saved("TIFF", [{"compression": kind} for kind in ("group3", "group4", "tiff_ccitt")], ("1",))
    files += _saved("TIFF", [{}], ("I;16", "F", "1"), animated=True)
    size = {256: (4, [32]), 257: (4, [32]), 258: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    tile = zlib.compress(bytes(range(256)))
    tiled = {**size, 259: (3, [8]), 322: (4, [16]), 323: (4, [16]), 324: (4, [8] * 4), 325: (4, [len(tile)] * 4)}
    files.append(tiff(tiled, tile))
    scans = scan_bomb(32, 32, 20)
    files.append(tiff({**size, 259: (3, [7]), 278: (4, [32]), 273: (4, [8]), 279: (4, [len(scans)])}, scans))
    return files
