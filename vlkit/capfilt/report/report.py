"""Write a report about the output of a job: an HTML page, a picture, and numbers as JSON."""

from __future__ import annotations

import contextlib
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vlkit.capfilt.decision import SOURCES
from vlkit.capfilt.output import StoredOutput
from vlkit.capfilt.report.charts import charts, picture, svg
from vlkit.capfilt.report.examples import ExamplePicker, short_score
from vlkit.capfilt.report.findings import Findings, lines, numbers, percent
from vlkit.capfilt.report.purity import purity
from vlkit.capfilt.report.survey import COLUMNS, Repeats, Survey, image_starts
from vlkit.capfilt.storage import Storage
from vlkit.errors import ConfigError, DataError
from vlkit.io.json import json_text

FOLDER = "report"
_TOP = 20  # repeated texts that are listed
_PICTURED = 12  # examples in the picture
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def write_report(source: str | Path, output: str | Path | None = None, examples: int = 24) -> dict[str, Any]:
    """Write ``report.html``, ``report.png`` and ``report.json`` about the output of a job.

    Shards that are not done yet are left out. Memory does not grow with the set; what occurs several times is counted
    in temporary files, which take about as much space as the texts.

    Args:
        source: output folder of ``vlkit capfilt`` or of its ``refilter``.
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
        found = collect(StoredOutput.open(place), examples)
        figures = numbers(found)
        shown = picture("CapFilt", lines(found), list(charts(found).values())[:2], found.drawn[:_PICTURED])
        target.write_bytes("report.png", shown)
        target.write_bytes("report.html", _page(found, figures).encode())
        target.write_bytes("report.json", json_text(figures, indent=1).encode() + b"\n")
    return figures


def collect(output: StoredOutput, examples: int) -> Findings:
    """Read the tables once, and the images once where scenes are checked.

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


def _page(found: Findings, figures: Mapping[str, Any]) -> str:
    """Render the HTML page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_without_directions)
    environment.filters["score"] = short_score
    source = importlib.resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        lines=lines(found),
        facts=_facts(found, figures),
        charts=[Markup(svg(name, chart)) for name, chart in charts(found).items()],
        refused=_refusals(found),
        repeated={f"{name} text": each.top for name, each in found.repeats.items() if each.top and name in SOURCES},
        drawn=found.drawn,
        border=found.border,
        rule=found.output.decision,
    )


def _without_directions(value: Any) -> Any:
    """Show characters that change the direction of the text that follows as their numbers."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(f"U+{ord(c):04X}" if c in _DIRECTIONS else c for c in value)


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
