"""A pipeline file: what it holds is read, and the stages are made for each seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlkit.config.build import build
from vlkit.config.load import expanded, load_nested, read_tree
from vlkit.config.yamlfile import Node, Place
from vlkit.errors import ConfigError, closest, did_you_mean
from vlkit.jobs.awaited import mentions
from vlkit.pipeline.entries import PipelineEntries, StageEntry
from vlkit.pipeline.kinds import KINDS
from vlkit.pipeline.stages.base import Stage, StageLocation
from vlkit.pipeline.table import Table, table_problems

Layer = tuple[str, Node]
"""A key path, and what is laid over it."""


@dataclass(frozen=True)
class PipelineFile:
    """A pipeline file that was found to be right.

    Args:
        path: of the file.
        folder: where its stages have their folders.
        stages: in order; with seeds, those of the first seed come first.
        table: the numbers to print at the end.
        jobs: stages that may run at the same time.
        variant: the one that was chosen.
    """

    path: Path
    folder: Path
    stages: list[Stage]
    table: Table
    jobs: int = 1
    variant: str | None = None

    def stage(self, key: str) -> Stage:
        """The stage with that key.

        Raises:
            ConfigError: there is none.
        """
        known = [stage.key for stage in self.stages]
        if key not in known:
            raise ConfigError(f"there is no stage {key!r}.{did_you_mean(key, known)} Stages: {', '.join(known)}.")
        return self.stages[known.index(key)]


def is_pipeline(path: str | Path) -> bool:
    """Whether the file is a pipeline rather than a run: it has ``stages``, or a misspelled list of them.

    Raises:
        ConfigError: it is missing or not YAML.
    """
    data = read_tree(path)[1].data
    lists = [key for key, value in data.items() if isinstance(value, list) and any(map(_like_stage, value))]
    return "stages" in data or ("model" not in data and bool(closest("stages", lists)))


def _like_stage(entry: Any) -> bool:
    return isinstance(entry, dict) and ("config" in entry or "command" in entry)


def load_pipeline(
    path: str | Path,
    overrides: Sequence[str] = (),
    variant: str | None = None,
    output_dir: str | Path | None = None,
) -> PipelineFile:
    """Load a pipeline file and the configurations of all its stages.

    Args:
        path: of the file.
        overrides: ``stage.key.path=value``; of all seeds.
        variant: one of those in the file. Unless ``output_dir`` is given, it has an output folder of its own.
        output_dir: instead of the file's.

    Raises:
        ConfigError: everything that is wrong with the file or with any of its stages.
    """
    return _Loader(expanded(path), variant).load(overrides, output_dir)


class _Loader:
    """Collects the problems of one file."""

    def __init__(self, path: Path, variant: str | None):
        self.path, self.variant = path, variant
        self.root, self.config = read_tree(path)
        self.entries: PipelineEntries = build(PipelineEntries, self.config.data, "", self.config.origin)
        self.names = [entry.name for entry in self.entries.stages]
        self.problems: list[str] = []

    def load(self, overrides: Sequence[str], output_dir: str | Path | None) -> PipelineFile:
        self.check_names()
        layers, given = self.layers(), self.overrides(overrides)
        folder = Path(output_dir or self.entries.output_dir or Path("output") / self.path.stem)
        if self.variant is not None and output_dir is None:
            folder = folder.with_name(f"{folder.name}-{self.variant}")
        self.end()
        stages: dict[str, Stage] = {}
        for index, spot in self.spots(folder):
            earlier = self.earlier(index, spot, folder)
            try:
                stages[spot.key] = self.stage(index, spot, earlier, layers[spot.name], given[spot.name])
            except ConfigError as error:
                self.problems += [f"stage {spot.name}: {problem}" for problem in error.problems]
        entries = self.entries
        table = Table(entries.table, entries.columns, entries.seeds)
        sets = {stage.name: stage.sets for stage in stages.values()}
        self.problems += table_problems(table, self.names, sets, self.config.origin)
        self.end()
        return PipelineFile(self.path, folder, list(stages.values()), table, entries.jobs, self.variant)

    def end(self) -> None:
        if self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))  # the stages of all seeds have the same mistakes

    def report(self, key_path: str, problem: str) -> None:
        self.problems.append(f"{self.config.origin(key_path)}: {problem}")

    def check_names(self) -> None:
        if not self.names:
            self.report("stages", "there is no stage.")
        for index, entry in enumerate(self.entries.stages):
            where = f"stages.{index}"
            if entry.name in self.names[:index]:
                self.report(f"{where}.name", f"two stages are named {entry.name!r}; rename one.")
            if not entry.name.replace("-", "").replace("_", "").isalnum():
                self.report(f"{where}.name", f"{entry.name!r}: letters, digits, '-' and '_' make the name of a stage.")
            if entry.name == "replaced" or entry.name.startswith("seed_"):
                self.report(
                    f"{where}.name", f"{entry.name!r} is the name of a folder that vlkit makes; choose another."
                )
            if not isinstance(entry.config, (str, dict)):
                self.report(f"{where}.config", "the path of a run file, or its content as a mapping, is needed.")
        for index, seed in enumerate(self.entries.seeds):
            if seed in self.entries.seeds[:index]:
                self.report(f"seeds.{index}", f"the seed {seed} is given twice.")

    def spots(self, folder: Path) -> Iterator[tuple[int, StageLocation]]:
        """Where each stage stands, with the number of its entry."""
        seeds: list[int | None] = [*self.entries.seeds] or [None]
        for number, seed in enumerate(seeds):
            for index, entry in enumerate(self.entries.stages):
                own = None if entry.once else seed
                if number == 0 or not entry.once:
                    yield index, _spot(entry, own, folder)

    def earlier(self, index: int, spot: StageLocation, folder: Path) -> dict[str, StageLocation]:
        """The stages that the one at ``spot`` may use, by name: of its seed, or run once."""
        entries = [entry for entry in self.entries.stages[:index] if entry.once or spot.seed is not None or self.alone]
        return {entry.name: _spot(entry, None if entry.once else spot.seed, folder) for entry in entries}

    @property
    def alone(self) -> bool:
        """Whether the file has no seeds."""
        return not self.entries.seeds

    def stage(
        self, index: int, spot: StageLocation, earlier: dict[str, StageLocation], layers: list[Layer], given: list[str]
    ) -> Stage:
        kind, entry = KINDS[self.entries.stages[index].command], self.entries.stages[index]
        written = self.root.value["stages"].value[index].value["config"]
        folder = (kind.folder_key, Node(str(spot.folder), Place(None)))
        key = kind.seed_key if spot.seed is not None and not _sets_seed(entry) else None
        seed = [(key, Node(spot.seed, Place(None)))] if key else []
        context: dict[str, Any] = {"stages": {name: str(each.folder) for name, each in earlier.items()}}
        if spot.seed is not None:
            context["seed"] = spot.seed
        root = written.value if isinstance(written.value, str) else written
        config = load_nested(root, self.path, [*seed, *layers, folder], given, context)
        after = tuple(each.key for each in earlier.values() if mentions(config.data, str(each.folder)))
        return kind(replace(spot, after=after), config)

    def layers(self) -> dict[str, list[Layer]]:
        """What ``set`` and the variant lay over each stage."""
        found: dict[str, list[Layer]] = {name: [] for name in self.names}
        for entry, node in zip(self.entries.stages, self.root.value["stages"].value):
            if entry.set:
                found[entry.name] += node.value["set"].value.items()
        if self.variant is None:
            return found
        variants = self.entries.variants
        if self.variant not in variants:
            known = f"Known: {', '.join(variants)}." if variants else "The file has none."
            self.report(
                "variants", f"there is no variant {self.variant!r}.{did_you_mean(self.variant, variants)} {known}"
            )
            return found
        for key, node in self.root.value["variants"].value[self.variant].value.items():
            where = self.config.origin(f"variants.{self.variant}")
            for name, rest in self.target(key, where):
                found[name].append((rest, node))
        return found

    def overrides(self, given: Sequence[str]) -> dict[str, list[str]]:
        """The overrides of the command line by stage."""
        found: dict[str, list[str]] = {name: [] for name in self.names}
        for text in given:
            key, equals, value = text.partition("=")
            for name, rest in self.target(key, f"command line: override {text!r}"):
                found[name].append(f"{rest}{equals}{value}")
        return found

    def target(self, key: str, where: str) -> Iterator[tuple[str, str]]:
        """Stage and key path in it of ``stage.key.path``; nothing, and a problem, where there is no such stage."""
        name, _, rest = key.partition(".")
        if name in self.names and rest:
            yield name, rest
            return
        hint = "" if name in self.names else did_you_mean(name, self.names)
        what = "no key of the stage" if name in self.names else f"no stage is named {name!r}"
        self.problems.append(
            f"{where}: {key!r}: {what}.{hint} Write <stage>.<key path>; stages: {', '.join(self.names)}."
        )


def _spot(entry: StageEntry, seed: int | None, folder: Path) -> StageLocation:
    key = entry.name if seed is None else f"seed_{seed}/{entry.name}"
    return StageLocation(key, entry.name, seed, folder / key, alone=entry.alone)


def _sets_seed(entry: StageEntry) -> bool:
    """Whether the pipeline file gives the stage a seed of its own; files that it names do not count."""
    written = entry.config.get("run") if isinstance(entry.config, dict) else None
    return (isinstance(written, dict) and "seed" in written) or "run.seed" in entry.set
