"""The plots of :mod:`benchmarks.growth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vlkit.io.files import atomic_write

_OURS, _LINE, _OTHER = "tab:blue", "0.6", "tab:orange"


def draw(found: Mapping[str, Sequence[Any]], machine: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a PNG for each part.

    Args:
        found: the points of ``retrieval``, ``captioning`` and ``decoding``.
        machine: what :func:`benchmarks.limits.measure_machine` gives.
        folder: of the files ``growth_<part>.png``.
    """
    parts = {"retrieval": _retrieval, "captioning": _captioning, "decoding": _decoding}
    written = []
    for name, part in parts.items():
        figure = Figure(figsize=(8.5, 3.8), layout="constrained")
        part(figure, found[name])
        for panel in figure.axes:
            panel.grid(color="0.92")
            panel.set_axisbelow(True)
            if panel.get_yscale() == "linear":
                panel.set_ylim(bottom=0)
            panel.legend(fontsize=8, frameon=False)
        figure.supxlabel(f"{machine['device']}, threads: {machine['threads']}, torch {machine['torch']}", fontsize=7)
        path = folder / f"growth_{name}.png"
        with atomic_write(path) as file:
            figure.savefig(file, format="png", dpi=150)
        written.append(path)
    return written


def _retrieval(figure: Any, points: Sequence[Any]) -> None:
    time, memory = figure.subplots(1, 2)
    pairs, taken = [point.pairs for point in points], [point.seconds for point in points]
    slope, start = np.polyfit(pairs, taken, 1)
    ends = [0, max(pairs)]
    fit = f"{start:.2f} s + {1e3 * slope:.3f} ms per pair"
    time.plot(ends, [start + slope * end for end in ends], color=_LINE, label=fit)
    time.plot(pairs, taken, "o", color=_OURS, label="whole evaluation")
    time.set(title="Retrieval: time", xlabel="pairs of image and text that matching scores", ylabel="time (s)")
    images = [point.images for point in points]
    lines = {
        "peak, with what the allocator keeps": (_LINE, [point.peak_mib for point in points]),
        "peak in use": (_OURS, [point.in_use_mib for point in points]),
        "image tokens, which wait on disk": (_OTHER, [point.tokens_mib for point in points]),
    }
    for label, (color, values) in lines.items():
        if None not in values:  # not every system tells
            memory.plot(images, values, "o-", color=color, label=label)
    memory.set(title="Retrieval: memory", xlabel="images, and as many texts", ylabel="memory (MiB)")


def _captioning(figure: Any, points: Sequence[Any]) -> None:
    panel = figure.subplots()
    batches = [point.batch for point in points]
    panel.plot(
        batches, [1e3 * point.seconds_per_image for point in points], "o-", color=_OURS, label="from pixels to text"
    )
    panel.set_xscale("log", base=2)
    panel.set_xticks(batches, [str(batch) for batch in batches])
    panel.set(title="Captioning: time of an image", xlabel="images at a time", ylabel="time per image (ms)")


def _decoding(figure: Any, points: Sequence[Any]) -> None:
    panel = figure.subplots()
    tokens = [point.image_tokens for point in points]
    whole, alone = [point.ms_per_token for point in points], [point.attention_ms for point in points]
    rest = [one - other for one, other in zip(whole, alone)]
    panel.plot(tokens, whole, "o-", color=_OURS, label="a step of decoding")
    panel.plot(tokens, alone, "o-", color=_OTHER, label="its cross-attention, alone")
    panel.plot(tokens, rest, "--", color=_LINE, label="difference")
    panel.set(title="Decoding: time of a token", xlabel="tokens of the image", ylabel="time per token (ms)")
