"""The training transform at 224 pixels beside the original's: pictures per second of one core.

Both sides get the same files (or decoded pictures) and the same generators, so they cut the same parts, flip the same
ones and apply the same operations. With ``resize: pil`` the outputs must be equal to the bit. With ``resize: fast`` no
pixel may be more than 2 gray levels off before RandAugment, and the mean difference after it must be below one gray
level: single pixels may differ more there, as operations that stretch contrasts stretch differences, too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.compare import Row, compare
from vlkit.processors.image import STD, BlipImageTrain
from vlkit.processors.resize import METHODS

WANTED = 2.0
"""Least ratio of the fast transform."""
_LEVEL = 1 / 255 / min(STD)
"""A gray level after normalization, where it counts most."""

Transform = Callable[[Any, np.random.Generator], Tensor]


def data_rows(
    size: str = "base", dtypes: Sequence[str] = ("fp32", "bf16"), repeat: int = 3, device: str = "cpu"
) -> Iterator[Row]:
    """A row per way to resize, with JPEG decoding and without.

    Args:
        size: "base" (32 pictures of 640 x 480, 224 pixels a side) or "tiny" (to see that it runs).
        dtypes: not used; pixels are made as float32 whatever the model computes in.
        repeat: timed runs.
        device: where models run. Pictures are made ready on the CPU; a ratio is wanted for "cpu" only.
    """
    from benchmarks.original import augment as original

    count, width, height, side = (32, 640, 480, 224) if size == "base" else (2, 64, 48, 32)
    files = [jpeg(picture(height, width, seed)) for seed in range(count)]
    decoded = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    wanted = WANTED if size == "base" and device == "cpu" else None
    with _one_thread(original):
        for what, sources in (("from JPEG files", files), ("of decoded pictures", decoded)):
            for method in METHODS:
                theirs = original.TrainTransform(side)
                ours = BlipImageTrain(side, randaugment_original=True, resize=method)
                row = compare(
                    f"training transform, {count} images {what}, resize: {method}, {size}",
                    "fp32",
                    original.NAME,
                    partial(_outputs, ours, sources),
                    partial(_outputs, theirs, sources),
                    torch.equal if method == "pil" else partial(_close, original, sources, side),
                    repeat,
                    wanted=wanted if method == "fast" else None,
                )
                speeds = f"{count / row.ours_s:.0f} and {count / row.peer_s:.0f} images/s per core"
                yield replace(row, note=speeds)


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A picture like a photograph, uint8 [height, width, 3]: smooth light, things with edges, and grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / height
    waves, phases = rng.uniform(2, 12, (2, 3)), rng.uniform(0, 6, (2, 3))
    pixels = 127 + 60 * np.sin(x[..., None] * waves[0] + phases[0]) + 50 * np.cos(y[..., None] * waves[1] + phases[1])
    for _ in range(25):
        column, row, radius = rng.uniform(0, width / height), rng.uniform(0, 1), rng.uniform(0.02, 0.2)
        inside = (x - column) ** 2 + (y - row) ** 2 < radius**2
        pixels[inside] = 0.2 * pixels[inside] + 0.8 * rng.uniform(0, 255, 3)
    return (pixels + rng.normal(0, 10, (height, width, 1))).clip(0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    """The pixels as a JPEG file of quality 90."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@contextmanager
def _one_thread(original: Any) -> Iterator[None]:
    before = torch.get_num_threads(), original.cv2.getNumThreads()
    original.cv2.setNumThreads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        original.cv2.setNumThreads(before[1])


def _outputs(transform: Transform, sources: Sequence[Any]) -> Tensor:
    """[len(sources), 3, side, side]."""
    return torch.stack([transform(source, np.random.default_rng(seed)) for seed, source in enumerate(sources)])


def _close(original: Any, sources: Sequence[Any], side: int, ours: Tensor, theirs: Tensor) -> bool:
    """Whether the fast way keeps what the module promises of it."""
    mine = _outputs(BlipImageTrain(side, randaugment=False, resize="fast"), sources)
    other = _outputs(original.TrainTransform(side, randaugment=False), sources)
    return bool((mine - other).abs().max() < 2.01 * _LEVEL and (ours - theirs).abs().mean() < _LEVEL)
