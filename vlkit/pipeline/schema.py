"""Schema of a pipeline file: the constructors are the allowed keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlkit.errors import ConfigError
from vlkit.registry.bounds import Processes, Seed

Command = Literal["train", "evaluate", "shards", "capfilt", "refilter", "report"]


@dataclass(frozen=True)
class StageEntry:
    """One entry of ``stages``.

    Args:
        name: also of its folder.
        command: the kind of job.
        config: the file of a run or job, relative to the pipeline file, or its content.
        set: key paths of the configuration and values for them: mappings merge key by key, other values replace, null
            removes. ``${stages.NAME}``, here and in ``config``, is the folder of an earlier stage; ``${seed}`` the
            seed.
        once: with ``seeds``: run it once, for all of them.
        alone: with ``jobs``: no other stage runs at the same time, and it has all cores. This also holds for a stage
            that all others use or are used by.
    """

    name: str
    command: Command
    config: Any
    set: dict[str, Any] = field(default_factory=dict)
    once: bool = False
    alone: bool = False

    @property
    def sets_seed(self) -> bool:
        """Whether the pipeline file gives the stage a seed of its own; run files that it names do not count."""
        written = self.config.get("run") if isinstance(self.config, dict) else None
        return (isinstance(written, dict) and "seed" in written) or "run.seed" in self.set


@dataclass(frozen=True)
class TableEntry:
    """One row of the final table.

    Args:
        name: title of the row.
        value: ``<stage>/<evaluation set>/<score>``, or ``<stage>/<score>`` of a stage without sets.
        values: one for each column instead; null leaves the cell empty.
    """

    name: str
    value: str | None = None
    values: list[str | None] | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.values is None):
            raise ConfigError(
                f"row {self.name!r}: give 'value', or 'values' with one for each of the file's 'columns'."
            )

    @property
    def cells(self) -> list[str | None]:
        """The values of all columns."""
        return [self.value] if self.values is None else self.values


@dataclass(frozen=True)
class PipelineEntries:
    """The sections of a pipeline file.

    Args:
        stages: in order.
        output_dir: null: ``output/<name of the file>``.
        seeds: all stages are run once for each, in ``<output_dir>/seed_<seed>``, with it as ``run.seed`` unless the
            stage sets that itself.
        jobs: stages that may run at the same time, each in its own process.
        variants: name to ``<stage>.<key path>`` and values for them.
        columns: of the table, where its rows have several values.
        table: the numbers to print at the end; none: all.
    """

    stages: list[StageEntry]
    output_dir: Path | None = None
    seeds: list[Seed] = field(default_factory=list)
    jobs: Processes = 1
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    table: list[TableEntry] = field(default_factory=list)
