"""Draw the plots of a run: ``samples.png``, images with their texts, and ``curves.png``, losses and scores by step."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vlkit.io.files import atomic_write
from vlkit.runner.log import read_lines

logger = logging.getLogger(__name__)
_TILE, _MARGIN, _LINES, _COLUMNS = 192, 8, 4, 4
_LINE_HEIGHT, _CHARACTERS = 14, 31


def draw_sample_grid(
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
        mean: of the normalization, by channel; None: each image is stretched from its smallest to its largest value.
        std: of the normalization, by channel.
    """
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    width, height = _TILE + _MARGIN, _TILE + _LINES * _LINE_HEIGHT + 2 * _MARGIN
    canvas = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for number, (image, text) in enumerate(zip(images, texts)):
        left, top = _MARGIN + number % columns * width, _MARGIN + number // columns * height
        canvas.paste(_tile(image, mean, std), (left, top))
        lines = textwrap.wrap(text, _CHARACTERS, max_lines=_LINES, placeholder=" ...")
        draw.multiline_text((left, top + _TILE + 4), "\n".join(lines), fill="black", font=font, spacing=1)
    with atomic_write(path) as file:
        canvas.save(file, "PNG")


def _tile(image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Image.Image:
    array = image.detach().float().cpu().reshape(-1, *image.shape[-3:])[0].permute(1, 2, 0).numpy()
    if mean is not None and std is not None:
        array = array * np.asarray(std) + np.asarray(mean)
    else:
        low, high = array.min(), array.max()
        array = (array - low) / max(float(high - low), 1e-12)
    pixels = np.clip(array * 255 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.BICUBIC)


def draw_curves(metrics: Path, path: Path) -> bool:
    """Plot the losses and scores of ``metrics.jsonl`` by step as PNG, one panel each.

    Args:
        metrics: the log; a missing file is empty.
        path: the PNG.

    Returns:
        Whether there was something to plot. A plot never fails a run: whatever goes wrong is a warning.
    """
    try:
        return _draw_curves(metrics, path)
    except Exception as error:  # matplotlib, its fonts and its cache, the disk
        logger.warning("%s was not drawn: %s: %s", path, type(error).__name__, error)
        return False


def _draw_curves(metrics: Path, path: Path) -> bool:
    from matplotlib.figure import Figure  # a slow import

    curves: dict[str, list[tuple[int, Any]]] = {}
    for line in read_lines(metrics, {"step": int}):
        losses = {"loss": line["loss"], **line.get("losses", {})} if "loss" in line else {}
        for name, value in {**losses, **line.get("eval", {})}.items():
            if isinstance(value, (int, float)):
                curves.setdefault(name, []).append((line["step"], value))
    if not curves:
        return False
    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(rows, columns, squeeze=False).flat, curves.items()):
        axes.plot(*zip(*points), marker="." if len(points) < 30 else None)
        axes.set(title=name, xlabel="step")
    for axes in figure.axes[len(curves) :]:
        axes.set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
    return True
