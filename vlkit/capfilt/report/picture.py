"""The picture of the report: charts, and images with their texts, kept and dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vlkit.capfilt.report.charts import COLORS
from vlkit.capfilt.report.drawing import Drawing
from vlkit.capfilt.report.examples import THUMBNAIL, Example

SCALE = 2  # pixels for each unit
_COLUMNS, _MARGIN, _LINE, _SIZE = 4, 10, 14, 11
_WIDTH = _COLUMNS * (THUMBNAIL + _MARGIN) + _MARGIN
_MOST_LINES = 3
_INK, _KEPT, _DROPPED = "#222222", "#1b7a2f", "#b3261e"


def draw_report(
    title: str, lines: Sequence[str], charts: Sequence[Drawing], examples: Sequence[Example]
) -> Image.Image:
    """A picture 818 units wide.

    Args:
        title: above everything.
        lines: below the title.
        charts: two in a row.
        examples: four in a row.
    """
    parts = [_words(title, lines), *_rows(charts), *(_row(examples[i : i + _COLUMNS]) for i in _starts(examples))]
    canvas = Image.new("RGB", (_WIDTH * SCALE, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas


def _starts(examples: Sequence[Example]) -> range:
    return range(0, len(examples), _COLUMNS)


def _words(title: str, lines: Sequence[str]) -> Image.Image:
    canvas = _blank(34 + 17 * len(lines))
    draw = ImageDraw.Draw(canvas)
    _write(draw, _MARGIN, 10, title, _INK, 17)
    for number, line in enumerate(lines):
        _write(draw, _MARGIN, 36 + 17 * number, line, "#555555", 12)
    return canvas


def _rows(charts: Sequence[Drawing]) -> list[Image.Image]:
    rows = []
    for first in range(0, len(charts), 2):
        pair = charts[first : first + 2]
        row = _blank(max(chart.height for chart in pair) + _MARGIN)
        for place, chart in enumerate(pair):
            row.paste(chart.image(SCALE), (place * row.width // 2, _MARGIN * SCALE))
        rows.append(row)
    return rows


def _row(examples: Sequence[Example]) -> Image.Image:
    wrapped = [[(text, _wrap(text)) for text in example.texts] for example in examples]
    height = max(sum(_LINE * len(lines) + 4 for _, lines in texts) for texts in wrapped)
    row = _blank(_MARGIN + THUMBNAIL + 6 + height)
    draw = ImageDraw.Draw(row)
    for column, (example, texts) in enumerate(zip(examples, wrapped)):
        left, top = _MARGIN + column * (THUMBNAIL + _MARGIN), float(_MARGIN + THUMBNAIL + 6)
        row.paste(_fitted(example.picture), (left * SCALE, _MARGIN * SCALE))
        for text, lines in texts:
            top = _text(draw, left, top, text, lines) + 4
    return row


def _fitted(picture: Image.Image) -> Image.Image:
    side = THUMBNAIL * SCALE
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    tile = Image.new("RGB", (side, side), "#f4f4f4")
    tile.paste(picture.resize(size, Image.Resampling.BICUBIC), ((side - size[0]) // 2, (side - size[1]) // 2))
    return tile


def _text(draw: ImageDraw.ImageDraw, left: float, top: float, text: dict[str, Any], lines: Sequence[str]) -> float:
    """Writes a text with a bar in the color of its source, struck through if it was dropped; where it ends."""
    color, start = (_KEPT if text["kept"] else _DROPPED), top
    for line in lines:
        width = _write(draw, left + 7, top, line, color, _SIZE)
        if not text["kept"]:
            middle = (top + 0.6 * _SIZE) * SCALE
            draw.line([((left + 7) * SCALE, middle), ((left + 7 + width) * SCALE, middle)], fill=color, width=SCALE)
        top += _LINE
    bar = [left * SCALE, (start + 1) * SCALE, (left + 3) * SCALE, (top - 2) * SCALE]
    draw.rectangle(bar, fill=COLORS[text["source"]])
    return top


def _wrap(text: dict[str, Any]) -> list[str]:
    """The words of a text and its score on lines that fit below an image."""
    lines, words = [""], [*text["text"].split(), score(text["itm"])]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if _length(longer) <= THUMBNAIL - 7:
            lines[-1] = longer
        else:
            lines += [_cut(word)] if lines[-1] else []
            lines[-1] = lines[-1] or _cut(word)
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"{_cut(lines[_MOST_LINES - 1], 40)} … {score(text['itm'])}"]
    return lines


def score(value: float | None) -> str:
    """A score with two places, without the zero."""
    return "–" if value is None else f"{value:.2f}".replace("0.", ".", 1)


def _cut(word: str, room: int = 0) -> str:
    """A word that is not longer than a line with ``room`` units left."""
    while _length(word) > THUMBNAIL - 7 - room:
        word = word[: int(len(word) * 0.9)]
    return word


def _length(line: str) -> float:
    return ImageFont.load_default(_SIZE * SCALE).getlength(line) / SCALE


def _write(draw: ImageDraw.ImageDraw, left: float, top: float, text: str, color: str, size: float) -> float:
    """Writes a line and gives its width in units."""
    font = ImageFont.load_default(size * SCALE)
    draw.text((left * SCALE, top * SCALE), text, fill=color, font=font)
    return font.getlength(text) / SCALE


def _blank(height: float) -> Image.Image:
    return Image.new("RGB", (_WIDTH * SCALE, round(height * SCALE)), "white")
