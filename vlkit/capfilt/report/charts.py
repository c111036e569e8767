"""Charts of the report as SVG for the page, and together with examples as one PNG picture."""

from __future__ import annotations

import html
import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vlkit.capfilt.report.examples import THUMBNAIL, Example, short_score
from vlkit.capfilt.report.findings import Findings
from vlkit.capfilt.report.survey import BINS

COLORS = {"web": "#c2571a", "synthetic": "#1f6fb2", "images": "#444444"}
_KEPT, _DROPPED = "#1b7a2f", "#b3261e"
_SHOWN_BINS = 40
_THRESHOLDS = np.linspace(0, 1, 201)
_SIZE = (3.8, 2.6)  # inches of a chart
_DPI = 200
_COLUMNS, _MARGIN, _LINE = 4, 0.1, 0.15  # of the picture, in inches
_LINE_LETTERS, _MOST_LINES = 30, 3
Chart = Callable[[Any], None]


def charts(found: Findings) -> dict[str, Chart]:
    """Return descriptions with functions that draw a chart into matplotlib axes."""
    decision, sources = found.output.decision, found.sources
    kept_at = found.survey.kept_at(_THRESHOLDS, found.output.counts.annotated)
    itm = {name: each.itm.reshape(_SHOWN_BINS, -1).sum(1) for name, each in sources.items()}
    edges = np.linspace(0, 1, _SHOWN_BINS + 1)
    shown: dict[str, Chart] = {
        "ITM probability of the texts": _histogram(
            "ITM probability", "probability that text and image match", edges, itm, decision.threshold
        ),
        "Shares kept at other thresholds": _curves(
            "Kept at other thresholds", "ITM threshold", _THRESHOLDS, kept_at, decision.threshold
        ),
    }
    if any(each.itc.any() for each in sources.values()):
        shown["ITC similarity of the texts"] = _similarities(found)
    most = max((int(np.flatnonzero(each.words)[-1]) for each in sources.values()), default=1)
    words = {name: each.words[: most + 1] for name, each in sources.items()}
    shown["Lengths of the texts"] = _histogram("Length", "words", np.arange(most + 2) - 0.5, words)
    return shown


def svg(description: str, chart: Chart) -> str:
    """Draw a chart as an SVG element that refers to nothing; equal charts give equal text."""
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        chart(figure.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    element = file.getvalue().partition("<svg ")[2]
    return f'<svg role="img" aria-label="{html.escape(description)}" {element}'


def picture(title: str, lines: Sequence[str], shown: Sequence[Chart], examples: Sequence[Example]) -> bytes:
    """Draw a PNG file: title and lines, two charts in a row, four examples in a row."""
    from matplotlib.figure import Figure

    side = THUMBNAIL / 100
    width = _COLUMNS * (side + _MARGIN) + _MARGIN
    wrapped = [line for each in lines for line in textwrap.wrap(each, 110)]
    rows = [examples[first : first + _COLUMNS] for first in range(0, len(examples), _COLUMNS)]
    heads = 0.45 + 0.18 * len(wrapped)
    heights = [_MARGIN + side + _LINE * max(sum(map(len, map(_wrapped, each.texts))) for each in row) for row in rows]
    height = heads + -(-len(shown) // 2) * _SIZE[1] + sum(heights) + _MARGIN
    figure = Figure(figsize=(width, height))
    figure.text(_MARGIN / width, 1 - 0.1 / height, title, va="top", size=13, color="#222222")
    text = "\n".join(wrapped)
    figure.text(_MARGIN / width, 1 - 0.38 / height, text, va="top", size=9, color="#555555", parse_math=False)

    def axes(left: float, top: float, size: tuple[float, float]) -> Any:
        return figure.add_axes((left / width, 1 - (top + size[1]) / height, size[0] / width, size[1] / height))

    for number, chart in enumerate(shown):
        left, top = number % 2 * width / 2 + 0.5, heads + number // 2 * _SIZE[1] + 0.3
        chart(axes(left, top, (width / 2 - 0.65, _SIZE[1] - 0.85)))
    top = heads + -(-len(shown) // 2) * _SIZE[1]
    for row, high in zip(rows, heights):
        for column, example in enumerate(row):
            _draw_example(axes(_MARGIN + column * (side + _MARGIN), top, (side, side)), example, side)
        top += high
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # letters of the web that the font does not have
        figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def _similarities(found: Findings) -> Chart:
    """Show the range that holds scores, not all from -1 to 1."""
    group = 10  # bins of the survey that make one of the chart
    used = np.flatnonzero(sum(each.itc for each in found.sources.values()))
    first, last = used[0] // group * group, (used[-1] // group + 1) * group
    counts = {name: each.itc[first:last].reshape(-1, group).sum(1) for name, each in found.sources.items()}
    edges = -1 + 2 * np.arange(first, last + 1, group) / BINS
    return _histogram("ITC similarity", "cosine similarity", edges, counts, found.output.decision.itc_threshold)


def _histogram(
    title: str, x_label: str, edges: np.ndarray, counts: Mapping[str, np.ndarray], threshold: float | None = None
) -> Chart:
    """Show the shares of the texts of each source; ``edges`` [bins + 1], ``counts`` source to [bins]."""

    def draw(axes: Any) -> None:
        for name, count in counts.items():
            if count.sum():
                axes.stairs(count / count.sum(), edges, fill=True, color=COLORS[name], alpha=0.25, label=name)
                axes.stairs(count / count.sum(), edges, color=COLORS[name], linewidth=1.4)
        _finish(axes, title, x_label, threshold, (edges[0], edges[-1]))

    return draw


def _curves(
    title: str, x_label: str, x: np.ndarray, shares: Mapping[str, np.ndarray], threshold: float | None
) -> Chart:
    def draw(axes: Any) -> None:
        for name, values in shares.items():
            axes.plot(x, values, color=COLORS[name], linewidth=1.4, label=name)
        axes.set_ylim(0, 1.05)
        _finish(axes, title, x_label, threshold, (x[0], x[-1]))

    return draw


def _finish(axes: Any, title: str, x_label: str, threshold: float | None, x: tuple[float, float]) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_xlim(*x)
    axes.set_ylim(bottom=0)
    if threshold is not None and x[0] <= threshold <= x[1]:
        axes.axvline(threshold, color="#222222", linewidth=1.2, linestyle="--", label=f"threshold {threshold:g}")
    axes.set_title(title, loc="left", size=10)
    axes.set_xlabel(x_label, size=8)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    # No tick marks: in SVG they would be references to elements that several charts define.
    axes.tick_params(left=False, bottom=False, labelsize=7, labelcolor="#555555")
    axes.grid(axis="y", color="#e8e8e8")
    axes.set_axisbelow(True)
    axes.spines[["left", "top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7)


def _draw_example(axes: Any, example: Example, side: float) -> None:
    """Draw an image, and below it its texts with a bar in the color of their source."""
    axes.imshow(np.asarray(example.thumbnail))
    axes.set_axis_off()
    row = 1.0
    for text in example.texts:
        for line in _wrapped(text):
            y = -_LINE * row / side
            axes.text(0, y, "▌", transform=axes.transAxes, size=6, color=COLORS[text["source"]])
            color = _KEPT if text["kept"] else _DROPPED
            axes.text(0.05, y, line, transform=axes.transAxes, size=6, color=color, parse_math=False)
            row += 1


def _wrapped(text: Mapping[str, Any]) -> list[str]:
    """Return the lines of a text: whether it was kept, its words, and its score."""
    words = "".join(c if c.isprintable() else " " for c in text["text"])
    score = short_score(text["itm"])
    lines = textwrap.wrap(f"{'✓' if text['kept'] else '✗'} {words} {score}", _LINE_LETTERS)
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1][:22]} … {score}"]
    return lines
