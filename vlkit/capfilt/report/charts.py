"""The charts of the report: histograms of two sources, and shares as functions of a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vlkit.capfilt.report.drawing import Area, Drawing, Label, Line, Point

COLORS = {"web": "#c2571a", "synthetic": "#1f6fb2", "images": "#444444"}
_WIDTH, _HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 44, 34
_AXIS, _GRID, _INK = "#999999", "#e8e8e8", "#222222"


class Frame:
    """The plane of a chart: its axes, and where numbers lie on it.

    Args:
        title: above the chart.
        x: least and largest value.
        top: largest value of y; the least is 0.
        x_label: below.
        names: of the series, for the legend.
    """

    def __init__(self, title: str, x: tuple[float, float], top: float, x_label: str, names: Sequence[str]):
        self.low, self.high, self.top = x[0], x[1], top or 1.0
        self.drawing = Drawing(_WIDTH, _HEIGHT)
        self._axes()
        self._add(Label((_LEFT, 13), title, _INK, 13))
        self._add(Label(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8), x_label, anchor="middle"))
        left = _LEFT
        for name in names:
            self._add(Area(_box(left, 27, 9, 9), COLORS[name], 0.8))
            self._add(Label((left + 13, 32), name))
            left += 28 + 5 * len(name)

    def at(self, x: float, y: float) -> Point:
        """Where a point of the data lies."""
        across = (x - self.low) / (self.high - self.low)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - min(y / self.top, 1.0) * (_HEIGHT - _TOP - _BOTTOM),
        )

    def mark(self, x: float, text: str) -> None:
        """A dashed line from bottom to top."""
        if not self.low <= x <= self.high:
            return
        low, high = self.at(x, 0), self.at(x, self.top)
        self._add(Line([low, high], _INK, 1.2, dashed=True))
        right = x > (self.low + self.high) / 2
        self._add(Label((high[0] + (-4 if right else 4), high[1] + 6), text, _INK, 10, "end" if right else "start"))

    def area(self, name: str, points: Sequence[Point]) -> None:
        """What lies under a curve, and the curve."""
        placed = [self.at(x, y) for x, y in points]
        ends = [self.at(points[-1][0], 0), self.at(points[0][0], 0)]
        self._add(Area([*placed, *ends], COLORS[name], 0.25))
        self.curve(name, points)

    def curve(self, name: str, points: Sequence[Point]) -> None:
        """The curve alone."""
        self._add(Line([self.at(x, y) for x, y in points], COLORS[name], 1.6))

    def _axes(self) -> None:
        for y in _ticks(0, self.top, 4):
            self._add(Line([self.at(self.low, y), self.at(self.high, y)], _GRID))
            self._add(Label((_LEFT - 5, self.at(0, y)[1]), f"{100 * y:.3g}%", anchor="end", size=10))
        for x in _ticks(self.low, self.high, 6):
            self._add(Label((self.at(x, 0)[0], _HEIGHT - _BOTTOM + 10), f"{x:.3g}", anchor="middle", size=10))
        self._add(Line([self.at(self.low, 0), self.at(self.high, 0)], _AXIS))

    def _add(self, item: Area | Line | Label) -> None:
        self.drawing.items.append(item)


def histogram(
    title: str, x_label: str, edges: np.ndarray, counts: Mapping[str, np.ndarray], mark: float | None = None
) -> Drawing:
    """Shares of the texts of each source.

    Args:
        title, x_label: words.
        edges: [bins + 1], ascending.
        counts: source to [bins].
        mark: a threshold to show.
    """
    shares = {name: found / found.sum() for name, found in counts.items() if found.sum()}
    top = max((float(share.max()) for share in shares.values()), default=1.0)
    frame = Frame(title, (float(edges[0]), float(edges[-1])), 1.08 * top, x_label, list(shares))
    for name, share in shares.items():
        frame.area(name, [(float(x), float(y)) for x, y in zip(np.repeat(edges, 2)[1:-1], np.repeat(share, 2))])
    if mark is not None:
        frame.mark(mark, f"threshold {mark:g}")
    return frame.drawing


def curves(
    title: str, x_label: str, x: Sequence[float], shares: Mapping[str, Sequence[float]], mark: float | None = None
) -> Drawing:
    """Shares as functions of ``x``; ``shares`` has a list as long as ``x`` for each name."""
    frame = Frame(title, (x[0], x[-1]), 1.05, x_label, list(shares))
    for name, values in shares.items():
        frame.curve(name, list(zip(x, values)))
    if mark is not None:
        frame.mark(mark, f"now {mark:g}")
    return frame.drawing


def _box(left: float, top: float, width: float, height: float) -> list[Point]:
    return [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    rough = (high - low) / count
    unit = 10.0 ** np.floor(np.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    first = int(np.ceil(low / step - 1e-9))
    return [round(i * step, 10) for i in range(first, int(np.floor(high / step + 1e-9)) + 1)]
