"""A run file: its sections checked together, everything wrong with it reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlkit.config.load import Config
from vlkit.config.parts import ComponentSpec, DatasetSpec, ModelPart, dataset_part, model_part, task_part
from vlkit.config.schema import OptimConfig, RunOptions, Sections, length_problem
from vlkit.config.signature import short
from vlkit.errors import ConfigError, did_you_mean

SECTIONS = ("plugins", "model", "datasets", "task", "optim", "run")


@dataclass(frozen=True)
class Datasets:
    """What a run reads.

    Args:
        train: the entries of the training mixture.
        eval: evaluation sets by name.
    """

    train: list[DatasetSpec]
    eval: dict[str, DatasetSpec]


@dataclass(frozen=True)
class RunConfig:
    """A run file that was found to be right.

    Args:
        model, task, datasets: ready to be built.
        optim, run: the options of these sections.
        config: the data that all of it came from.
    """

    model: ModelPart
    datasets: Datasets
    task: ComponentSpec
    optim: OptimConfig
    run: RunOptions
    config: Config

    @property
    def output_dir(self) -> Path:
        """Return the output folder of the run: as configured, or ``output/<name of the run file>``."""
        name = self.config.path.stem if self.config.path else "run"
        return self.run.output_dir or Path("output") / name


def check_run(config: Config, training: bool = True) -> RunConfig:
    """Check a run file after loading its plugins; return its parts.

    Args:
        training: whether the run trains; otherwise ``optim``, ``datasets.train`` and a length may be absent.

    Raises:
        ConfigError: every problem of every section.
    """
    return _Checker(config, training).run()


class _Checker(Sections):
    """Collects the problems of one run file."""

    def __init__(self, config: Config, training: bool):
        super().__init__(config)
        self.training = training

    def run(self) -> RunConfig:
        self.open(SECTIONS)
        model = self.part("model", model_part)
        datasets = self.datasets(model)
        task = self.part("task", task_part)
        optim = self.section("optim", OptimConfig)
        options = self.section("run", RunOptions)
        if optim is not None and self.training and "lr" not in self.mapping("optim"):
            self.report("optim", "the learning rate is missing: give optim.lr.")
        if options is not None and self.training and options.length is None:
            self.report("run", "the length of training is missing: give run.duration, such as '3000 steps'.")
        if optim is not None and options is not None and (problem := length_problem(optim, options)):
            self.report("run.duration", problem)
        self.check_monitor()
        if model is None or task is None or optim is None or options is None or self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))
        return RunConfig(model, datasets, task, optim, options, self.config)

    def datasets(self, model: ModelPart | None) -> Datasets:
        found = Datasets([], {})
        section = self.config.data.get("datasets")
        if section is not None and not isinstance(section, dict):
            self.report("datasets", f"{short(section)} given, a mapping with 'train' and 'eval' is needed.")
            return found
        for key in self.mapping("datasets"):
            if key not in ("train", "eval"):
                hint = did_you_mean(key, ("train", "eval"))
                self.report(f"datasets.{key}", f"unknown key {key!r}.{hint} Allowed: train, eval.")
        for index, entry in enumerate(self.entries("train", list)):
            where = f"datasets.train.{index}"
            part = self.checked(dataset_part, entry, where, self.config.origin, model, True)
            found.train.extend([part] if part else [])
        for name, entry in dict(self.entries("eval", dict)).items():
            where = f"datasets.eval.{name}"
            part = self.checked(dataset_part, entry, where, self.config.origin, model, False)
            found.eval.update({name: part} if part else {})
        return found

    def entries(self, key: str, kind: type) -> Any:
        """Return ``datasets.train`` (a list) or ``datasets.eval`` (a mapping); empty when it is absent or wrong."""
        value = self.mapping("datasets").get(key)
        forms = {"train": "a list: [{name: ...}]", "eval": "a mapping: {val: {name: ...}}"}
        if value is not None and not isinstance(value, kind):
            self.report(f"datasets.{key}", f"{short(value)} given; write {forms[key]}.")
        elif not value and key == ("train" if self.training else "eval"):
            self.report(f"datasets.{key}", f"there is nothing to {'train on' if self.training else 'evaluate on'}.")
        return value if isinstance(value, kind) else kind()

    def check_monitor(self) -> None:
        monitor = self.mapping("run").get("monitor")
        sets = self.mapping("datasets").get("eval")
        known = list(sets) if isinstance(sets, dict) else []
        if isinstance(monitor, str) and (name := monitor.partition("/")[0]) not in known:
            where = f"Known sets: {', '.join(known)}." if known else "datasets.eval is empty."
            hint = did_you_mean(name, known)
            self.report("run.monitor", f"{monitor!r} names no evaluation set.{hint} {where}")
