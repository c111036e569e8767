"""Simple drawings that become SVG for a page and pixels for a picture, with the same look."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image, ImageColor, ImageDraw, ImageFont

Point = tuple[float, float]


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    points: Sequence[Point]
    color: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Line:
    """Straight pieces through ``points``."""

    points: Sequence[Point]
    color: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Label:
    """A text on one line; ``anchor`` says which part of it is at ``at``, whose y is the middle of its height."""

    at: Point
    text: str
    color: str = "#555555"
    size: float = 11.0
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass
class Drawing:
    """What is drawn, in this order, on a plane of so many units (pixels on a page); y grows downwards."""

    width: int
    height: int
    items: list[Area | Line | Label] = field(default_factory=list)

    def svg(self, description: str) -> str:
        """As an SVG element; ``description`` is for those who cannot see it."""
        parts = "".join(map(_svg, self.items))
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}" role="img" '
            f'aria-label="{html.escape(description)}" font-family="inherit">{parts}</svg>'
        )

    def image(self, scale: int = 2) -> Image.Image:
        """As pixels on white, ``scale`` for each unit."""
        fine = 2 * scale  # drawn larger, then shrunk: Pillow's lines and polygons are not smoothed
        canvas = Image.new("RGB", (self.width * fine, self.height * fine), "white")
        for item in self.items:
            if not isinstance(item, Label):
                canvas = _paint(canvas, item, fine)
        canvas = canvas.resize((self.width * scale, self.height * scale), Image.Resampling.BOX)
        draw = ImageDraw.Draw(canvas)
        for item in self.items:
            if isinstance(item, Label):
                anchor = {"start": "lm", "middle": "mm", "end": "rm"}[item.anchor]
                at = (item.at[0] * scale, item.at[1] * scale)
                draw.text(at, item.text, fill=item.color, font=ImageFont.load_default(item.size * scale), anchor=anchor)
        return canvas


def _svg(item: Area | Line | Label) -> str:
    if isinstance(item, Label):
        x, y = item.at
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{item.color}" font-size="{item.size:g}" text-anchor="{item.anchor}" '
            f'dominant-baseline="central">{html.escape(item.text)}</text>'
        )
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in item.points)
    if isinstance(item, Area):
        return f'<polygon points="{points}" fill="{item.color}" fill-opacity="{item.opacity:g}"/>'
    dashes = ' stroke-dasharray="4 3"' if item.dashed else ""
    return f'<polyline points="{points}" fill="none" stroke="{item.color}" stroke-width="{item.width:g}"{dashes}/>'


def _paint(canvas: Image.Image, item: Area | Line, scale: int) -> Image.Image:
    points = [(x * scale, y * scale) for x, y in item.points]
    if isinstance(item, Area):
        mask = Image.new("L", canvas.size)
        ImageDraw.Draw(mask).polygon(points, fill=round(255 * item.opacity))
        return Image.composite(Image.new("RGB", canvas.size, ImageColor.getrgb(item.color)), canvas, mask)
    draw, width = ImageDraw.Draw(canvas), max(1, round(item.width * scale))
    for start, end in itertools.pairwise(points):
        for piece in _dashes(start, end, 4.0 * scale, 3.0 * scale) if item.dashed else [(start, end)]:
            draw.line(piece, fill=item.color, width=width)
    return canvas


def _dashes(start: Point, end: Point, dash: float, gap: float) -> list[tuple[Point, Point]]:
    length = ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5

    def along(distance: float) -> Point:
        share = min(distance / length, 1.0)
        return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])

    count = int(length // (dash + gap)) + 1 if length else 0
    return [(along(i * (dash + gap)), along(i * (dash + gap) + dash)) for i in range(count)]
