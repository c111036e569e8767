"""What may stand in a pipeline file: the constructors are the schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlkit.errors import ConfigError
from vlkit.registry.bounds import Processes, Seed

Command = Literal["train", "evaluate", "shards", "capfilt", "cut", "report"]


@dataclass(frozen=True)
class StageEntry:
    """One entry of ``stages``.

    Args:
        name: also of its folder.
        command: what it does.
        config: the file of a run or job, relative to the pipeline file, or its content.
        set: key paths of it and what is laid over them: a mapping key by key, anything else instead of what was there;
            null takes it away. ``${stages.NAME}``, here and in ``config``, is the folder of an
            earlier stage; ``${seed}`` the seed.
        once: with ``seeds``: run it once, for all of them.
        alone: with ``jobs``: nothing runs beside it, and it has all cores. So it is anyway with a stage that all others
            use or are used by.
    """

    name: str
    command: Command
    config: Any
    set: dict[str, Any] = field(default_factory=dict)
    once: bool = False
    alone: bool = False


@dataclass(frozen=True)
class TableEntry:
    """One row of the table at the end.

    Args:
        name: what it is called there.
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
        """The values, also where there is one."""
        return [self.value] if self.values is None else self.values


@dataclass(frozen=True)
class PipelineEntries:
    """What a pipeline file may hold.

    Args:
        stages: in order.
        output_dir: null: ``output/<name of the file>``.
        seeds: all stages are run once for each, in ``<output_dir>/seed_<seed>``, with it as ``run.seed`` unless the
            stage sets that itself.
        jobs: stages that may run at the same time, each in a process of its own.
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
