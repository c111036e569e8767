"""A pipeline file: stages, each a run that may start from what an earlier one wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlkit.config.build import build
from vlkit.config.load import Config, load_nested, read_tree
from vlkit.config.yamlfile import Node, Place
from vlkit.errors import ConfigError, did_you_mean
from vlkit.experiment import Experiment


@dataclass(frozen=True)
class StageEntry:
    """One entry of ``stages``.

    Args:
        name: also of its folder.
        command: train or evaluate.
        config: a run file, relative to the pipeline file, or its content.
        set: key paths of the run and values for them; ``${stages.NAME}`` is the folder of an earlier stage.
    """

    name: str
    command: Literal["train", "evaluate"]
    config: Any
    set: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableEntry:
    """One number of the table at the end.

    Args:
        name: what it is called there.
        value: ``<stage>/<evaluation set>/<score>``.
    """

    name: str
    value: str


@dataclass(frozen=True)
class PipelineEntries:
    """What a pipeline file may hold.

    Args:
        stages: in order.
        output_dir: null: ``output/<name of the file>``.
        variants: name to ``<stage>.<key path>`` and values for them.
        table: the numbers to print at the end; none: all.
    """

    stages: list[StageEntry]
    output_dir: Path | None = None
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    table: list[TableEntry] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A stage that was found to be right.

    Args:
        name: of it.
        command: train or evaluate.
        experiment: its run.
        after: the earlier stage whose weights it starts from, if it does.
    """

    name: str
    command: str
    experiment: Experiment
    after: str | None

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.experiment.output_dir


@dataclass(frozen=True)
class PipelineFile:
    """A pipeline file that was found to be right.

    Args:
        path: of the file.
        folder: where its stages have their folders.
        stages: in order.
        table: the numbers to print at the end.
        variant: the one that was chosen.
    """

    path: Path
    folder: Path
    stages: list[Stage]
    table: list[TableEntry]
    variant: str | None = None


def is_pipeline(path: str | Path) -> bool:
    """Whether the file is a pipeline rather than a run.

    Raises:
        ConfigError: it is missing or not YAML.
    """
    return "stages" in read_tree(path)[1].data


def load_pipeline(
    path: str | Path,
    overrides: Sequence[str] = (),
    variant: str | None = None,
    output_dir: str | Path | None = None,
) -> PipelineFile:
    """Load a pipeline file and the runs of all its stages.

    Args:
        path: of the file.
        overrides: ``stage.key.path=value``.
        variant: one of those in the file. Unless ``output_dir`` is given, it has an output folder of its own.
        output_dir: instead of the file's.

    Raises:
        ConfigError: everything that is wrong with the file or with any of its stages.
    """
    return _Loader(Path(path).expanduser(), variant).load(overrides, output_dir)


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
        if self.problems:
            raise ConfigError(self.problems)
        stages: list[Stage] = []
        for index, entry in enumerate(self.entries.stages):
            earlier = {name: str(folder / name) for name in self.names[:index]}
            node = Node(str(folder / entry.name), Place(None))
            own = [*layers[entry.name], ("run.output_dir", node)]
            try:
                config = load_nested(self.run_of(index), self.path, own, given[entry.name], {"stages": earlier})
                stages.append(_stage(entry, config, earlier))
            except ConfigError as error:
                self.problems += [f"stage {entry.name}: {problem}" for problem in error.problems]
        self.check_table(stages)
        if self.problems:
            raise ConfigError(self.problems)
        return PipelineFile(self.path, folder, stages, self.entries.table, self.variant)

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
            if not isinstance(entry.config, (str, dict)):
                self.report(f"{where}.config", "the path of a run file, or its content as a mapping, is needed.")

    def run_of(self, index: int) -> Node | str:
        """The run of a stage, as it is written."""
        node = self.root.value["stages"].value[index].value["config"]
        return node.value if isinstance(node.value, str) else node

    def layers(self) -> dict[str, list[tuple[str, Node]]]:
        """What ``set`` and the variant lay over each stage."""
        found: dict[str, list[tuple[str, Node]]] = {name: [] for name in self.names}
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

    def check_table(self, stages: list[Stage]) -> None:
        """Stages and sets must be known; scores are only known when there are some."""
        sets = {stage.name: list(stage.experiment.parts.datasets.eval) for stage in stages}
        for index, entry in enumerate(self.entries.table):
            stage, _, rest = entry.value.partition("/")
            known = [f"{name}/{each}" for name, names in sets.items() for each in names]
            chosen = f"{stage}/{rest.partition('/')[0]}"
            if (stage in sets or stage not in self.names) and chosen not in known:
                hint = did_you_mean(chosen, known)
                self.report(
                    f"table.{index}.value",
                    f"{entry.value!r} names no evaluation set of a stage.{hint} Write <stage>/<set>/<score>; "
                    f"known: {', '.join(known)}.",
                )


def _stage(entry: StageEntry, config: Config, earlier: dict[str, str]) -> Stage:
    experiment = Experiment.of(config, training=entry.command == "train")
    start = experiment.parts.run.init_from
    after = next((name for name, folder in earlier.items() if start == folder), None)
    return Stage(entry.name, entry.command, experiment, after)
