"""Jobs on the output of CapFilt: filter it again, and report on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from vlkit.capfilt.decision import Decision
from vlkit.capfilt.output import StoredOutput
from vlkit.capfilt.refilter import refilter
from vlkit.capfilt.report import write_report
from vlkit.capfilt.shard_output import DONE
from vlkit.capfilt.storage import Storage
from vlkit.config.build import build
from vlkit.config.load import Config
from vlkit.errors import ConfigError, VlkitError
from vlkit.jobs.base import NOTHING, Job, Pending, Result, digest
from vlkit.registry.bounds import Processes, Range


@dataclass(frozen=True)
class RefilterEntries:
    """Schema of a stage that filters an output again.

    Args:
        source: output folder of ``vlkit capfilt``, or of such a stage.
        decision: which texts are kept.
        workers: processes.
        output_dir: set by the pipeline.
    """

    source: str
    decision: Decision
    workers: Processes = 1
    output_dir: Path = Path()


@dataclass(frozen=True)
class ReportEntries:
    """Schema of a stage that reports on an output.

    Args:
        source: as for :class:`RefilterEntries`.
        examples: random images, and as many at the threshold.
        output_dir: set by the pipeline.
    """

    source: str
    examples: Annotated[int, Range(0, 10_000)] = 24
    output_dir: Path = Path()


class _OutputJob(Job):
    """A job that reads the output of CapFilt."""

    output_key = "output_dir"
    seed_key = None
    schema: type[Any]

    def __init__(self, config: Config):
        super().__init__(config)
        self.entries = build(self.schema, config.data, "", config.origin)

    def prepare(self, pending: Pending = NOTHING, fresh: bool = False) -> None:
        if "source" in pending:
            return
        try:
            with Storage(self.entries.source) as place:
                StoredOutput.open(place)
        except VlkitError as error:
            raise ConfigError(f"{self.config.origin('source')}: {error}") from error


class RefilterJob(_OutputJob):
    """Filter again, as ``vlkit capfilt refilter`` does; ``kept/`` in the output folder holds the shards."""

    command = "refilter"
    schema = RefilterEntries

    def run(self) -> Result:
        entries = self.entries
        found = refilter(entries.source, entries.output_dir, entries.decision, entries.workers)
        if found["missing"]:
            raise VlkitError(f"{entries.source}: {found['missing']} shards are not done yet.")
        return {"status": "finished", "metrics": shares(found)}

    def output_fingerprint(self) -> str:
        return fingerprint(self.entries.output_dir)

    def relevant(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        return {key: value for key, value in config.items() if key not in ("output_dir", "workers")}


class ReportJob(_OutputJob):
    """Write numbers, page and picture, as ``vlkit capfilt report`` does."""

    command = "report"
    schema = ReportEntries

    def run(self) -> Result:
        folder = self.entries.output_dir
        found = write_report(self.entries.source, folder, self.entries.examples)
        metrics = {key: value for key, value in _numbers(found).items() if value is not None}
        return {"status": "finished", "metrics": metrics, "picture": str(folder / "report.png")}

    def output_fingerprint(self) -> str:
        return digest([self.entries.output_dir / "report.json"])


def fingerprint(folder: Path) -> str:
    """Identify an output by its manifests, which hold the checksums of all files."""
    return digest((folder / DONE).glob("*.json"))


def shares(summary: Mapping[str, Any]) -> dict[str, float]:
    """Count images and texts, and give the shares that were kept."""
    images, texts = summary["images"], summary["texts"]
    found = {"images": images["read"], "images_kept": images["kept"] / max(images["kept"] + images["dropped"], 1)}
    for name, each in texts.items():
        if each["scored"]:
            found |= {f"{name}_texts": each["scored"], f"{name}_kept": each["kept"] / each["scored"]}
    return found


def _numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """Select the numbers of a report; nested ones as ``counts/images/kept``."""
    found: dict[str, float] = {}
    for key, value in report.items():
        if isinstance(value, Mapping) and key in ("counts", "images", "texts", "web", "synthetic"):
            found |= {f"{key}/{name}": each for name, each in _numbers(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[key] = value
    return found
