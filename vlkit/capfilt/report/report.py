"""Reads an output once and writes what is in it as a page, a picture and numbers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlkit.capfilt.decision import SOURCES
from vlkit.capfilt.output import StoredOutput
from vlkit.capfilt.report import page
from vlkit.capfilt.report.drawing import Drawing
from vlkit.capfilt.report.examples import ExamplePicker
from vlkit.capfilt.report.findings import Findings, charts, lines, numbers, percent
from vlkit.capfilt.report.picture import draw_report
from vlkit.capfilt.report.purity import purity
from vlkit.capfilt.report.repeats import Repeats
from vlkit.capfilt.report.survey import COLUMNS, Survey, image_starts
from vlkit.capfilt.storage import Storage
from vlkit.errors import ConfigError, DataError
from vlkit.io.json_writer import json_text

FOLDER = "report"
_TOP = 20  # repeated texts that are listed
_PICTURED = 12  # examples in the picture


def write_report(source: str | Path, output: str | Path | None = None, examples: int = 24) -> dict[str, Any]:
    """Write ``report.html``, ``report.png`` and ``report.json`` about the output of a job.

    Shards that are not done yet are left out. Memory does not grow with the set; what occurs several times is counted
    in temporary files, which take about as much space as the texts.

    Args:
        source: output folder of ``vlkit capfilt`` or of its ``apply``.
        output: folder of the report; None: ``report`` in the output folder.
        examples: images drawn from the set, and as many at the border.

    Returns:
        What ``report.json`` holds.

    Raises:
        ConfigError: ``examples`` is negative.
        DataError: there is no output, none of its shards is done, or it is damaged.
    """
    if examples < 0:
        raise ConfigError(f"examples: {examples} given; 0 or more allowed.")
    with Storage(source) as place, Storage(f"{place}/{FOLDER}" if output is None else output) as target:
        found = look(StoredOutput.open(place), examples)
        figures, drawn, picture = numbers(found), charts(found), io.BytesIO()
        two = list(drawn.values())[:2]
        draw_report("CapFilt", lines(found), two, found.drawn[:_PICTURED]).save(picture, "PNG")
        target.write_bytes("report.png", picture.getvalue())
        target.write_bytes("report.html", _page(found, figures, drawn).encode())
        target.write_bytes("report.json", json_text(figures, indent=1).encode() + b"\n")
    return figures


def look(output: StoredOutput, examples: int) -> Findings:
    """Read everything once, and once more where scenes are checked.

    Args:
        output: with one finished shard at least.
        examples: of each kind.
    """
    if not output.shards:
        raise DataError(f"{output.place}: no shard is done yet. Run vlkit capfilt first.")
    counts, survey = output.counts, Survey(output.decision)
    picker = ExamplePicker(output.decision, output.shards, examples)
    expected = {"web": counts.web_scored, "synthetic": counts.synthetic, "images": counts.annotated}
    with contextlib.ExitStack() as stack:
        repeats = {name: stack.enter_context(Repeats(count)) for name, count in expected.items()}
        for place, shard in enumerate(output.shards):
            for part in shard.table(("key", *COLUMNS)):
                survey.add(part)
                picker.add(place, part)
                _repeat(part, repeats)
        repeated = {name: each.count(_TOP) for name, each in repeats.items()}
    drawn, border = picker.read()
    return Findings(output, survey, repeated, purity(output.shards), drawn, border)


def _repeat(part: Any, repeats: Mapping[str, Repeats]) -> None:
    texts, source = part["text"].to_pylist(), part["source"].to_pylist()
    for name in SOURCES:
        repeats[name].add(text for text, each in zip(texts, source) if each == name)
    repeats["images"].add(part["image"].take(image_starts(part)).to_pylist())


def _page(found: Findings, figures: Mapping[str, Any], drawn: Mapping[str, Drawing]) -> str:
    parts = [*map(page.paragraph, lines(found)), page.facts(_facts(found, figures)), page.charts(drawn)]
    reasons = _refusals(found)
    if reasons:
        explained = "Each is named in the ledger (ledger/<shard>.jsonl), with its key."
        parts += [page.heading("Inputs that gave no output", explained), page.tables(reasons)]
    repeated = {f"{name} text": each.top for name, each in found.repeats.items() if each.top and name in SOURCES}
    if repeated:
        parts += [
            page.heading("Texts that occur most often", "Over the whole set, exactly counted."),
            page.tables(repeated),
        ]
    parts += [page.heading("Images drawn from the set", _LEGEND), page.examples(found.drawn)] if found.drawn else []
    if found.border:
        explained = f"The texts on yellow are those nearest to the border. The rule: {found.output.decision}."
        parts += [page.heading("At the border", explained), page.examples(found.border)]
    return page.page("CapFilt report", parts)


_LEGEND = "Orange bar: text of the web; blue bar: synthetic. Green: kept; red and struck through: dropped."


def _facts(found: Findings, figures: Mapping[str, Any]) -> dict[str, str]:
    counts, repeats = found.output.counts, found.repeats
    shown = {"images": f"{counts.annotated:,}", "images kept": percent(figures["images_kept"])}
    shown |= {f"{name} texts kept": percent(figures[f"{name}_kept"]) for name in found.sources}
    names = {
        "web_correct": "web texts correct",
        "web_correct_kept": "kept web texts correct",
        "synthetic_correct": "synthetic texts correct",
        "synthetic_correct_kept": "kept synthetic texts correct",
    }
    shown |= {name: percent(figures[key]) for key, name in names.items() if key in figures}
    shown |= {f"{name} texts that repeat another": percent(repeats[name].share) for name in found.sources}
    return shown | {"images that repeat another": percent(repeats["images"].share)}


def _refusals(found: Findings) -> dict[str, list[tuple[str, int]]]:
    counts = found.output.counts
    kinds = {
        "images": counts.refused,
        "web texts": counts.web_refused,
        "other data": counts.fields_refused,
        "other files in tars": counts.members_refused,
        "shards": counts.damaged,
    }
    return {name: counter.most_common() for name, counter in kinds.items() if counter}
