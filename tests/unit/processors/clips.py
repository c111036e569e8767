"""Makes small video files whose frames tell their number: frame i is gray of the level ``level(i)``."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

STEP = 7


def level(index: int) -> int:
    return 10 + STEP * index


def number(pixels: np.ndarray) -> int:
    """Which frame this is; a moving white dot and compression do not matter."""
    return round((float(np.median(pixels)) - 10) / STEP)


def write_clip(
    path: Path,
    frames: int = 20,
    codec: str = "mpeg4",
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """A video of at most 35 frames.

    Args:
        times: of the frames, in hundredths of a second; None: every four.
        size: height and width in pixels.
    """
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        if codec.startswith("mpeg"):
            stream.bit_rate = 3_000_000  # enough to tell the levels
        stream.codec_context.time_base = Fraction(1, 100)
        for i in range(frames):
            pixels = np.full((*size, 3), level(i), np.uint8)
            pixels[:8, (2 * i) % size[1] :][:, :8] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = 4 * i if times is None else times[i]
            frame.time_base = Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file without pictures."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path) -> Path:
    """The same file, marked to be shown rotated by 90 degrees clockwise."""
    data = bytearray(path.read_bytes())
    upright = b"".join(n.to_bytes(4, "big") for n in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))
    turned = b"".join(
        n.to_bytes(4, "big", signed=True) for n in (0, 0x10000, 0, -0x10000, 0, 0, 0x300000, 0, 0x40000000)
    )
    place = data.index(upright, data.index(b"tkhd"))
    data[place : place + len(turned)] = turned
    path.write_bytes(data)
    return path
