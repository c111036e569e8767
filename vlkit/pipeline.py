"""Runs the stages of a pipeline file: what is finished is skipped, what was interrupted goes on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlkit.errors import ConfigError, VlkitError, did_you_mean
from vlkit.io import atomic_write
from vlkit.pipeline_file import PipelineFile, Stage
from vlkit.runner.device import choose_device
from vlkit.runner.distributed import World
from vlkit.runner.log import finite_or_none
from vlkit.runner.output import differences, plain

logger = logging.getLogger(__name__)
RECORD = "stage.json"
"""In a stage's folder: its command, configuration, fingerprint of the weights it starts from, status and scores."""
Record = dict[str, Any]


class Pipeline:
    """The stages of a file and what has become of them.

    Args:
        file: that was found to be right.
    """

    def __init__(self, file: PipelineFile):
        self.file = file
        self.world = World()

    def run(self, redo_from: str | None = None) -> dict[str, Any]:
        """Run what is not finished; also as one of the processes of ``torchrun``.

        Args:
            redo_from: this stage and the later ones are done again; their folders are moved to ``replaced/``.

        Returns:
            ``status`` ("finished", or "interrupted" with ``signal`` and ``stage``), ``stages`` (name to record),
            ``table`` (rows with ``name``, ``value`` and ``score``). Of a finished pipeline also in ``results.json``.

        Raises:
            ConfigError: a stage is wrong, or was run with another configuration or other weights; nothing was done.
        """
        stages = self.file.stages
        redone = self._from(redo_from)
        self.world.start(choose_device(stages[0].experiment.parts.run.device, self.world.local_rank))
        records = self.world.on_main(lambda: {stage.name: read_record(stage.folder) for stage in stages})
        records.update(dict.fromkeys(redone))
        self._check(records, redone)
        self.world.on_main(lambda: _set_aside([stage for stage in stages if stage.name in redone], self.file.folder))
        done: dict[str, Record] = {}
        for stage in stages:
            record = self._run(stage, records[stage.name])
            done[stage.name] = record
            if record["status"] == "interrupted":
                self.world.finish()
                return {"status": "interrupted", "stage": stage.name, "signal": record["signal"], "stages": done}
        results = {"status": "finished", "variant": self.file.variant, "stages": done, "table": self._table(done)}
        self.world.on_main(lambda: self._write(results))
        self.world.finish()
        return results

    def _from(self, name: str | None) -> list[str]:
        names = [stage.name for stage in self.file.stages]
        if name is None:
            return []
        if name not in names:
            raise ConfigError(f"--from {name}: no such stage.{did_you_mean(name, names)} Stages: {', '.join(names)}.")
        return names[names.index(name) :]

    def _check(self, records: dict[str, Record | None], redone: Sequence[str]) -> None:
        """Look at everything before the first stage starts."""
        problems: list[str] = []
        ready: list[str] = []
        for stage in self.file.stages:
            record = records[stage.name]
            changed = differences(record["config"], plain(stage.experiment.parts.config.data)) if record else ""
            if changed:
                problems.append(
                    f"stage {stage.name}: {stage.folder} holds it with another configuration: {changed}. Undo the "
                    f"change, redo it and the later stages with --from {stage.name}, or choose another --output."
                )
            elif record is not None and record["status"] == "finished":
                ready.append(stage.name)
            else:
                follows = stage.after is not None and stage.after not in ready
                found = _problems(stage, follows, stage.name in redone)
                problems += [f"stage {stage.name}: {problem}" for problem in found]
        if problems:
            raise ConfigError(problems)

    def _run(self, stage: Stage, record: Record | None) -> Record:
        fingerprint = self.world.on_main(lambda: _fingerprint(stage))
        if record is not None and record["weights"] != fingerprint:
            raise ConfigError(
                f"stage {stage.name}: the weights that it starts from have changed since it was run. Redo it and the "
                f"later stages with --from {stage.name}."
            )
        if record is not None and record["status"] == "finished":
            logger.info("%s: finished, skipped", stage.name)
            return record
        logger.info("%s: %s, in %s", stage.name, "started" if record is None else "continued", stage.folder)
        started = time.perf_counter()
        config = plain(stage.experiment.parts.config.data)
        new: Record = {"command": stage.command, "config": config, "weights": fingerprint, "status": "started"}
        self.world.on_main(lambda: write_record(stage.folder, new))
        new |= _train(stage) if stage.command == "train" else _evaluate(stage)
        new["seconds"] = round(new.get("seconds", time.perf_counter() - started), 3)
        picture = stage.folder / "samples.png"
        new["picture"] = str(picture) if picture.exists() else None
        self.world.on_main(lambda: write_record(stage.folder, {**new, "status": _lasting(new["status"])}))
        return new

    def _table(self, done: dict[str, Record]) -> list[dict[str, Any]]:
        scores = {f"{name}/{key}": value for name, each in done.items() for key, value in each["metrics"].items()}
        if not self.file.table:
            return [{"name": key, "value": key, "score": score} for key, score in scores.items()]
        for entry in self.file.table:
            if entry.value not in scores:
                hint = did_you_mean(entry.value, scores)
                logger.warning("%s: table: no stage gave the score %r.%s", self.file.path, entry.value, hint)
        return [{"name": each.name, "value": each.value, "score": scores.get(each.value)} for each in self.file.table]

    def _write(self, results: dict[str, Any]) -> None:
        stages = {
            name: {key: value for key, value in record.items() if key != "config"}
            for name, record in results["stages"].items()
        }
        _write_json(self.file.folder / "results.json", {**results, "pipeline": str(self.file.path), "stages": stages})
        with atomic_write(self.file.folder / "results.md", "w") as file:
            file.write(markdown(self.file.path.stem, results["table"]))


def read_record(folder: Path) -> Record | None:
    """What a stage left in its folder; None: it was not begun.

    Raises:
        VlkitError: the record is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise VlkitError(f"{path} is damaged: {error}. Delete the folder to run the stage again.") from error


def write_record(folder: Path, record: Record) -> None:
    """Leave a record in the folder of a stage."""
    _write_json(folder / RECORD, record)


def markdown(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """The table as a Markdown page."""
    lines = [f"| {row['name']} | {'-' if row['score'] is None else format(row['score'], '.4f')} |" for row in rows]
    return "\n".join([f"# {title}", "", "| score | value |", "|---|---:|", *lines, ""])


def _problems(stage: Stage, follows: bool, redone: bool) -> list[str]:
    """What is wrong with a stage that is to run, its weights aside where an earlier stage is still to make them."""
    try:
        stage.experiment.prepare(weights_follow=follows, folder_freed=redone)
    except ConfigError as error:
        return error.problems
    return []


def _train(stage: Stage) -> Record:
    with stage.experiment.runner() as runner:
        result = runner.train()
    return {
        key: result[key] for key in ("status", "metrics", "best", "checkpoint", "seconds", "signal") if key in result
    }


def _evaluate(stage: Stage) -> Record:
    runner, step = stage.experiment.evaluator()
    with runner:
        return {"status": "finished", "metrics": runner.evaluate(step)}


def _lasting(status: str) -> str:
    return "finished" if status == "finished" else "started"


def _fingerprint(stage: Stage) -> str | None:
    weights = stage.experiment.starting_weights()
    return weights.fingerprint() if weights else None


def _set_aside(stages: Sequence[Stage], folder: Path) -> None:
    """Move the folders of stages to ``replaced/``."""
    for stage in [each for each in stages if each.folder.exists()]:
        number = 1
        while (target := folder / "replaced" / f"{stage.name}-{number}").exists():
            number += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        stage.folder.rename(target)
        logger.info("%s: what was there is in %s now", stage.name, target)


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path, "w") as file:
        file.write(json.dumps(finite_or_none(content), indent=1, allow_nan=False) + "\n")
