"""How long the worst images within the limits take to open, and how much memory:
``PYTHONPATH=. python benchmarks/image_limits.py``.

Small files that decode to as much as the limits of ``vlkit.processors.encoded`` admit, each in a process of its own.
Encoding them takes most of the time. ``--pixels`` is ``max_pixels``; the default is vlkit's.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from math import isqrt
from pathlib import Path

from PIL import Image

from tests.unit.processors.bombs import run_length_bmp, scan_bomb
from vlkit.processors.encoded import MAX_PIXELS, SCANS_OF_ALL
from vlkit.processors.image_headers import MAX_SCANS
from vlkit.processors.open_image import open_image
from vlkit.processors.resize import square

Image.MAX_IMAGE_PIXELS = None
COLOR = (200, 30, 90)


def saved(mode: str, pixels: float, kind: str, **options) -> bytes:
    """A plain picture."""
    side = isqrt(int(pixels))
    color = COLOR + (100,) * (mode == "RGBA") if mode.startswith("RGB") else 90
    buffer = io.BytesIO()
    Image.new(mode, (side, side), color).save(buffer, kind, **options)
    return buffer.getvalue()


def worst(most: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name, and what makes the file."""
    scans = SCANS_OF_ALL * most
    yield "JPEG, 4:4:4", lambda: saved("RGB", most, "JPEG", subsampling=0)
    yield "JPEG, CMYK", lambda: saved("CMYK", most * 3 / 4, "JPEG")
    yield "JPEG, 10 scans", lambda: saved("RGB", scans / 10, "JPEG", subsampling=0, progressive=True)
    side = isqrt(scans // MAX_SCANS)
    yield f"JPEG, {MAX_SCANS} scans", lambda: scan_bomb(side, side, MAX_SCANS)
    yield "PNG, RGB", lambda: saved("RGB", most, "PNG", compress_level=1)
    yield "PNG, RGBA", lambda: saved("RGBA", most / 4, "PNG", compress_level=1)
    yield "PNG, palette", lambda: saved("P", most, "PNG", compress_level=1)
    yield "GIF", lambda: saved("P", most, "GIF")
    yield "TIFF, deflate", lambda: saved("RGB", most, "TIFF", compression="tiff_adobe_deflate")
    yield "TIFF, LZW", lambda: saved("RGB", most, "TIFF", compression="tiff_lzw")
    yield "WebP", lambda: saved("RGB", most / 2, "WEBP", method=0)
    yield "WebP, alpha, lossless", lambda: saved("RGBA", most / 6, "WEBP", lossless=True, method=0)
    yield "AVIF", lambda: saved("RGB", most / 4, "AVIF", speed=10)
    yield "JPEG 2000", lambda: saved("RGB", most / 8, "JPEG2000")
    yield "BMP, run lengths", lambda: run_length_bmp(isqrt(most // 200) // 4 * 4)
    side = isqrt(most // 400)
    yield "PPM, text", lambda: b"P3 %d %d 255\n" % (side, side) + b"1 2 3 " * side**2


def measure(data: bytes, most: int, answers: multiprocessing.Queue) -> None:
    """Seconds to open and to resize, bytes at most."""
    before = peak_bytes()
    start = time.process_time()
    image = open_image(data, most)
    opened = time.process_time()
    square(image, 384, "pil")
    end = time.process_time()
    answers.put((image.size, opened - start, end - opened, peak_bytes() - before))


def peak_bytes() -> int:
    """The most memory that this process had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=MAX_PIXELS)
    most = parser.parse_args().pixels
    out = sys.stdout
    out.write(
        "| image | megapixels | file, MB | open, s | to 384 pixels, s | memory, GB |\n|---|---|---|---|---|---|\n"
    )
    spawn = multiprocessing.get_context("spawn")
    for name, make in worst(most):
        try:
            data = make()
        except (KeyError, OSError, ValueError) as error:  # this Pillow cannot write it
            out.write(f"| {name} | {error} |\n")
            continue
        answers = spawn.Queue()
        process = spawn.Process(target=measure, args=(data, most, answers))
        process.start()
        (width, height), opened, resized, peak = answers.get(timeout=300)
        process.join()
        megapixels, size = width * height / 1e6, len(data) / 1e6
        out.write(f"| {name} | {megapixels:.1f} | {size:.2f} | {opened:.2f} | {resized:.2f} | {peak / 1e9:.2f} |\n")
        out.flush()


if __name__ == "__main__":
    main()
