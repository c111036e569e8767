"""A picture of sample images, each with the text that the model gives it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vlkit.io.files import atomic_write

_TILE, _MARGIN, _LINES, _COLUMNS = 192, 8, 4, 4
_LINE_HEIGHT, _CHARACTERS = 14, 31


def draw_samples(
    images: Sequence[Tensor],
    texts: Sequence[str],
    path: Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a grid of images with their texts below as PNG.

    Args:
        images: [3, H, W] each, normalized; of a video or pair [..., 3, H, W] the first is shown.
        texts: one for each image; cut after four lines.
        path: the PNG.
        mean: what the normalization took off each channel; None: each image is stretched from its least to
            its largest value.
        std: what the normalization divided by.
    """
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    width, height = _TILE + _MARGIN, _TILE + _LINES * _LINE_HEIGHT + 2 * _MARGIN
    canvas = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for number, (image, text) in enumerate(zip(images, texts)):
        left, top = _MARGIN + number % columns * width, _MARGIN + number // columns * height
        canvas.paste(_to_picture(image, mean, std), (left, top))
        lines = textwrap.wrap(text, _CHARACTERS, max_lines=_LINES, placeholder=" ...")
        draw.multiline_text((left, top + _TILE + 4), "\n".join(lines), fill="black", font=font, spacing=1)
    with atomic_write(path) as file:
        canvas.save(file, "PNG")


def _to_picture(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Image.Image:
    array = image.detach().float().cpu().reshape(-1, *image.shape[-3:])[0].permute(1, 2, 0).numpy()
    if mean is not None and std is not None:
        array = array * np.asarray(std) + np.asarray(mean)
    else:
        low, high = array.min(), array.max()
        array = (array - low) / max(float(high - low), 1e-12)
    pixels = np.clip(array * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
