"""Run the stages of a pipeline file: finished stages are skipped, interrupted ones resumed."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlkit.errors import ConfigError
from vlkit.jobs.base import Result
from vlkit.pipeline.file import PipelineFile
from vlkit.pipeline.stage import Stage, is_finished, locked, read_record, set_aside, write_json, write_record
from vlkit.runner.config_changes import plain
from vlkit.runner.context import choose_device
from vlkit.runner.distributed import World

logger = logging.getLogger(__name__)


class Pipeline:
    """Runs the stages of a pipeline file.

    Args:
        file: a valid file.
    """

    def __init__(self, file: PipelineFile):
        self.file, self.stages = file, file.stages
        self.world = World()

    def run(self, redo_from: str | None = None) -> dict[str, Any]:
        """Run the unfinished stages one after the other; also as one of the processes of ``torchrun``.

        Args:
            redo_from: run this stage and those that use it again; their folders are moved to ``replaced/``.

        Returns:
            ``status`` ("finished", or "interrupted" with ``signal`` and ``stage``), ``stages`` (key to record),
            ``table`` (its rows). A finished pipeline also writes ``results.json``.

        Raises:
            ConfigError: a stage is wrong, or was run with another configuration or other inputs; nothing was run.
        """
        with self.processes():
            records = self.prepare(redo_from)
            done: dict[str, Result] = {}
            for stage in self.stages:
                record = done[stage.key] = self.run_stage(stage, records[stage.key])
                if record["status"] == "interrupted":
                    signal = record["signal"]
                    return {"status": "interrupted", "stage": stage.key, "signal": signal, "stages": done}
            return self.world.on_main(lambda: self.write_results(done))

    def run_only(self, key: str) -> Result:
        """Run one stage, as :meth:`run` would, if the stages that it uses are finished.

        Raises:
            ConfigError: as for :meth:`run`, or an earlier stage is not finished.
        """
        stage = self.file.stage(key)
        missing = [each for each in stage.after if not is_finished(read_record(self.file.stage(each).folder))]
        if missing:
            raise ConfigError(f"stage {key} uses {', '.join(missing)}: not finished. Run it first.")
        with self.processes():
            record = self.world.on_main(lambda: read_record(stage.folder))
            self.check([stage], {key: record})
            return self.run_stage(stage, record)

    @contextlib.contextmanager
    def processes(self) -> Iterator[None]:
        """Meet the other processes, if ``torchrun`` started several."""
        devices = [stage.job.device for stage in self.stages if stage.job.device != "auto"]
        self.world.start(choose_device(devices[0] if devices else "auto", self.world.local_rank))
        with self.world.explained():
            yield
        self.world.finish()  # not after an error: the others may be gone, and leaving in order would wait for them

    def prepare(self, redo_from: str | None = None) -> dict[str, Result | None]:
        """Check all stages before the first one starts, and move away the folders of those that are to run again.

        Returns:
            The records of all stages; None: not started.

        Raises:
            ConfigError: everything that is wrong.
        """
        redone = self.redone(redo_from)
        folders = {stage.key: stage.folder for stage in self.stages}
        records = self.world.on_main(lambda: {key: read_record(folder) for key, folder in folders.items()})
        records.update(dict.fromkeys(redone))
        self.check(self.stages, records, redone)
        moved = [stage for stage in self.stages if stage.key in redone]
        self.world.on_main(lambda: set_aside(moved, self.file.folder))
        return records

    def redone(self, name: str | None) -> list[str]:
        """Return the keys of the stages called ``name`` and of all that use them."""
        if name is None:
            return []
        given = name.rstrip("/")
        if given not in [each for stage in self.stages for each in (stage.key, stage.name)]:
            self.file.stage(given)  # raises
        found: list[str] = []
        for stage in self.stages:
            if given in (stage.key, stage.name) or set(stage.after) & set(found):
                found.append(stage.key)
        return found

    def check(self, stages: Sequence[Stage], records: dict[str, Result | None], redone: Sequence[str] = ()) -> None:
        """Check stages that are to run.

        Raises:
            ConfigError: everything that is wrong.
        """
        problems: list[str] = []
        unfinished = [stage.key for stage in stages if not is_finished(records[stage.key])]
        for stage in stages:
            key, record = stage.key, records[stage.key]
            changed = stage.job.changes(record["config"], is_finished(record)) if record else ""
            if changed:
                problems.append(
                    f"stage {key}: {stage.folder} holds it with another configuration: {changed}. Undo the "
                    f"change, redo it and the stages that use it with --from {key}, or choose another --output."
                )
            elif not is_finished(record):
                try:
                    stage.job.prepare(stage.pending(unfinished), key in redone)
                except ConfigError as error:
                    problems += [f"stage {key}: {problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)

    def finished(self, stage: Stage, record: Result | None) -> bool:
        """Whether a stage is finished, with the inputs that exist now.

        Raises:
            ConfigError: its inputs have changed since it ran.
        """
        if record is None:
            return False
        now = self.world.on_main(lambda: self.inputs(stage))
        changed = [name for name, before in record.get("inputs", {}).items() if name in now and now[name] != before]
        if changed:
            raise ConfigError(
                f"stage {stage.key}: what it uses has changed since it was run: {', '.join(changed)}. Redo it and "
                f"the stages that use it with --from {stage.key}."
            )
        return is_finished(record)

    def inputs(self, stage: Stage) -> dict[str, str | None]:
        """Return the fingerprints of everything that a stage uses."""
        used = {key: self.file.stage(key).job.output_fingerprint() for key in stage.after}
        return {**stage.job.input_fingerprints(), **used}

    def run_stage(self, stage: Stage, record: Result | None) -> Result:
        """Run a stage unless it is finished, and return its record."""
        key, folder = stage.key, stage.folder
        if record is not None and self.finished(stage, record):
            logger.info("%s: finished, skipped", key)
            return record
        with locked(folder) if self.world.is_main else contextlib.nullcontext():
            return self._run(stage)

    def _run(self, stage: Stage) -> Result:
        key, folder, job = stage.key, stage.folder, stage.job
        record = self.world.on_main(lambda: read_record(folder))
        if record is not None and is_finished(record):  # meanwhile, by another process
            return record
        logger.info("%s: %s, in %s", key, "started" if record is None else "continued", folder)
        started = time.perf_counter()
        new: Result = {"command": job.command, "config": plain(job.config.data), "status": "started"}
        new["inputs"] = self.world.on_main(lambda: self.inputs(stage))
        self.world.on_main(lambda: write_record(folder, new))
        new |= job.record(job.run() if job.in_every_process else self.world.on_main(job.run))
        new["seconds"] = round(new.get("seconds", time.perf_counter() - started), 3)
        samples = folder / "samples.png"
        new.setdefault("picture", str(samples) if samples.exists() else None)
        lasting = {**new, "status": "finished" if new["status"] == "finished" else "started"}
        self.world.on_main(lambda: write_record(folder, lasting))
        return new

    def write_results(self, done: Mapping[str, Result]) -> dict[str, Any]:
        """Write ``results.json`` and the table of a finished pipeline.

        Args:
            done: the records of all stages by key.

        Returns:
            ``status``, ``variant``, ``stages`` (the records), ``table`` (its rows) and ``written`` (files).
        """
        file, table = self.file, self.file.table
        rows = table.rows(done)
        results = {"status": "finished", "variant": file.variant, "stages": dict(done), "table": rows}
        shown = {key: {name: each for name, each in record.items() if name != "config"} for key, record in done.items()}
        plain_rows = rows if table.columns else [{"name": row["name"], **row["cells"][0]} for row in rows]
        path = file.folder / "results.json"
        write_json(path, {"pipeline": str(file.path), **results, "stages": shown, "table": plain_rows})
        written = [path, *table.write(file.folder, file.path.stem, rows)]
        return {**results, "written": [str(each) for each in written]}
