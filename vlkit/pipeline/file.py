"""Load a pipeline file: create the stages for each seed, and resolve references to earlier stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlkit.config.build import build
from vlkit.config.load import Config, expanded, load_nested, read_tree
from vlkit.config.yamlfile import Node, SourceLocation
from vlkit.errors import ConfigError, did_you_mean
from vlkit.pipeline.report import Table, table_problems
from vlkit.pipeline.schema import PipelineEntries, StageEntry
from vlkit.pipeline.stage import COMMANDS, Stage

Layer = tuple[str, Node]
"""A key path, and a value for it."""
_MARK = "\0"  # encloses the name of a stage while a configuration is resolved; no YAML file can contain it


@dataclass(frozen=True)
class PipelineFile:
    """A valid pipeline file.

    Args:
        path: of the file.
        folder: of its output.
        stages: in order; with seeds, those of the first seed come first.
        table: the numbers to print at the end.
        jobs: stages that may run at the same time.
        variant: the chosen one.
    """

    path: Path
    folder: Path
    stages: list[Stage]
    table: Table
    jobs: int = 1
    variant: str | None = None

    def stage(self, key: str) -> Stage:
        """Return the stage with that key.

        Raises:
            ConfigError: there is none.
        """
        known = [stage.key for stage in self.stages]
        if key not in known:
            raise ConfigError(f"there is no stage {key!r}.{did_you_mean(key, known)} Stages: {', '.join(known)}.")
        return self.stages[known.index(key)]


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
        self.refuse_old_commands()
        self.entries: PipelineEntries = build(PipelineEntries, self.config.data, "", self.config.origin)
        self.names = [entry.name for entry in self.entries.stages]
        self.values: dict[str, list[Layer]] = {name: [] for name in self.names}
        self.given: dict[str, list[str]] = {name: [] for name in self.names}
        self.problems: list[str] = []

    def load(self, overrides: Sequence[str], output_dir: str | Path | None) -> PipelineFile:
        self.check_names()
        self.read_values()
        self.read_overrides(overrides)
        entries = self.entries
        folder = Path(output_dir or entries.output_dir or Path("output") / self.path.stem)
        if self.variant is not None and output_dir is None:
            folder = folder.with_name(f"{folder.name}-{self.variant}")
        self.end()
        stages: dict[str, Stage] = {}
        for number, seed in enumerate([*entries.seeds] or [None]):
            for index, entry in enumerate(entries.stages):
                if number and entry.once:
                    continue
                try:
                    stage = self.stage(index, None if entry.once else seed, folder)
                    stages[stage.key] = stage
                except ConfigError as error:
                    self.problems += [f"stage {entry.name}: {problem}" for problem in error.problems]
        table = Table(entries.table, entries.columns, entries.seeds)
        sets = {stage.name: stage.job.eval_sets for stage in stages.values()}
        self.problems += table_problems(table, self.names, sets, self.config.origin)
        self.end()
        return PipelineFile(self.path, folder, list(stages.values()), table, entries.jobs, self.variant)

    def refuse_old_commands(self) -> None:
        """Raise an error that names the new command of stages with a command that was renamed."""
        stages = self.config.data.get("stages")
        entries = enumerate(stages) if isinstance(stages, list) else ()
        old = [index for index, entry in entries if isinstance(entry, dict) and entry.get("command") == "cut"]
        if old:
            places = [self.config.origin(f"stages.{index}.command") for index in old]
            raise ConfigError([f"{place}: the command 'cut' is now 'refilter'." for place in places])

    def end(self) -> None:
        if self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))  # the stages of all seeds have the same mistakes

    def report(self, key_path: str, problem: str) -> None:
        self.problems.append(f"{self.config.origin(key_path)}: {problem}")

    def check_names(self) -> None:
        if not self.names:
            self.report("stages", "there is no stage.")
        for index, entry in enumerate(self.entries.stages):
            where, name = f"stages.{index}", entry.name
            if name in self.names[:index]:
                self.report(f"{where}.name", f"two stages are named {name!r}; rename one.")
            if not name.replace("-", "").replace("_", "").isalnum():
                self.report(f"{where}.name", f"{name!r}: letters, digits, '-' and '_' make the name of a stage.")
            if name == "replaced" or name.startswith("seed_"):
                self.report(f"{where}.name", f"{name!r} is the name of a folder that vlkit makes; choose another.")
            if not isinstance(entry.config, (str, dict)):
                self.report(f"{where}.config", "the path of a run file, or its content as a mapping, is needed.")
        for index, seed in enumerate(self.entries.seeds):
            if seed in self.entries.seeds[:index]:
                self.report(f"seeds.{index}", f"the seed {seed} is given twice.")

    def stage(self, index: int, seed: int | None, folder: Path) -> Stage:
        """Load the configuration of a stage.

        Args:
            index: of its entry.
            seed: None: of a file without seeds, or for all of them.
            folder: of the pipeline.
        """
        entry = self.entries.stages[index]
        kind, key = COMMANDS[entry.command], _key(entry, seed)
        written = self.root.value["stages"].value[index].value["config"]
        values = [*self.values[entry.name], (kind.output_key, Node(str(folder / key), SourceLocation(None)))]
        if seed is not None and kind.seed_key is not None and not entry.sets_seed:
            values.insert(0, (kind.seed_key, Node(seed, SourceLocation(None))))
        # With seeds, a stage uses earlier stages of its seed, or those that are run once.
        usable = [
            each for each in self.entries.stages[:index] if each.once or seed is not None or not self.entries.seeds
        ]
        keys = {each.name: _key(each, seed) for each in usable}
        context: dict[str, Any] = {"stages": {name: f"{_MARK}{name}{_MARK}" for name in keys}}
        if seed is not None:
            context["seed"] = seed
        root = written.value if isinstance(written.value, str) else written
        config = load_nested(root, self.path, values, self.given[entry.name], context)
        references = _resolve(config, {name: (key, str(folder / key)) for name, key in keys.items()})
        after = tuple(each for each in keys.values() if any(each in used for used in references.values()))
        return Stage(key, entry.name, folder / key, kind(config), references, after, entry.alone)

    def read_values(self) -> None:
        """Collect the values that ``set`` and the variant give for each stage."""
        for entry, node in zip(self.entries.stages, self.root.value["stages"].value):
            if entry.set:
                self.values[entry.name] += node.value["set"].value.items()
        if self.variant is None:
            return
        variants = self.entries.variants
        if self.variant not in variants:
            known = f"Known: {', '.join(variants)}." if variants else "The file has none."
            hint = did_you_mean(self.variant, variants)
            self.report("variants", f"there is no variant {self.variant!r}.{hint} {known}")
            return
        where = self.config.origin(f"variants.{self.variant}")
        for key, node in self.root.value["variants"].value[self.variant].value.items():
            for name, rest in self.target(key, where):
                self.values[name].append((rest, node))

    def read_overrides(self, overrides: Sequence[str]) -> None:
        """Collect the overrides of the command line for each stage."""
        for text in overrides:
            key, equals, value = text.partition("=")
            for name, rest in self.target(key, f"command line: override {text!r}"):
                self.given[name].append(f"{rest}{equals}{value}")

    def target(self, key: str, where: str) -> Iterator[tuple[str, str]]:
        """Split ``stage.key.path`` into stage and key path; report a problem where there is no such stage."""
        name, _, rest = key.partition(".")
        if name in self.names and rest:
            yield name, rest
            return
        hint = "" if name in self.names else did_you_mean(name, self.names)
        what = "no key of the stage" if name in self.names else f"no stage is named {name!r}"
        self.problems.append(
            f"{where}: {key!r}: {what}.{hint} Write <stage>.<key path>; stages: {', '.join(self.names)}."
        )


def _key(entry: StageEntry, seed: int | None) -> str:
    return entry.name if entry.once or seed is None else f"seed_{seed}/{entry.name}"


def _resolve(config: Config, stages: Mapping[str, tuple[str, str]]) -> dict[str, set[str]]:
    """Replace marked names of stages in a configuration by the folders of these stages.

    Args:
        config: changed in place.
        stages: key and folder of each stage, by name.

    Returns:
        The key paths that refer to stages, with the keys of these.
    """
    references: dict[str, set[str]] = {}

    def resolved(value: Any, path: str) -> Any:
        prefix = f"{path}." if path else ""
        if isinstance(value, dict):
            return {key: resolved(each, f"{prefix}{key}") for key, each in value.items()}
        if isinstance(value, list):
            return [resolved(each, f"{prefix}{index}") for index, each in enumerate(value)]
        if not isinstance(value, str) or _MARK not in value:
            return value
        pieces = value.split(_MARK)  # text, name, text, name, ..., text
        references[path] = {stages[name][0] for name in pieces[1::2]}
        pieces[1::2] = [stages[name][1] for name in pieces[1::2]]
        return "".join(pieces)

    config.data = resolved(config.data, "")
    return references
