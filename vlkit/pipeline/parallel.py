"""Run stages that do not use each other at the same time, each as ``python -m vlkit run --only`` in its own process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlkit.errors import ConfigError, VlkitError
from vlkit.io.processes import cores, start_child
from vlkit.jobs.base import Result
from vlkit.pipeline.pipeline import Pipeline
from vlkit.pipeline.stage import Stage, is_finished, read_record
from vlkit.runner.signals import StopRequest

logger = logging.getLogger(__name__)
LOG = "log.txt"
"""In a stage's folder: its output."""
_LAST_LINES = 15
_POLL_SECONDS = 0.1


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    since: float


class ParallelPipeline:
    """Runs the stages of a pipeline at the same time.

    Args:
        pipeline: whose stages are run.
        jobs: upper limit of stages at the same time, which share the CPU cores (or ``OMP_NUM_THREADS`` of them).
        arguments: with which ``vlkit run`` loads the same pipeline.
    """

    def __init__(self, pipeline: Pipeline, jobs: int, arguments: Sequence[str]):
        if pipeline.world.size > 1:
            raise ConfigError("--jobs: under torchrun all processes work on one stage. Use --jobs 1, or no torchrun.")
        self.pipeline, self.jobs, self.arguments = pipeline, jobs, list(arguments)
        self.above = _above(pipeline.stages)
        self.running: list[_Running] = []
        self.done: dict[str, Result] = {}
        self.failed: dict[str, str] = {}
        self.stopped: list[str] = []
        self.signal: int | None = None

    def run(self, redo_from: str | None = None) -> dict[str, Any]:
        """Run as :meth:`Pipeline.run` does. When a stage fails, those that do not use it still run.

        Raises:
            ConfigError: as there.
            VlkitError: stages failed.
        """
        records = self.pipeline.prepare(redo_from)
        waiting = list(self.pipeline.stages)
        with StopRequest("passed on to the running stages; no further one is started") as stop:
            try:
                while self.running or (waiting and stop.received is None):
                    if stop.received is None:
                        waiting = self._start(waiting, records)
                    self._wait(stop)
            finally:
                self._pass_on(signal.SIGTERM)  # to stages that an error of this process left running
        self.signal = stop.received
        keys = [stage.key for stage in self.pipeline.stages]
        if self.failed:
            raise VlkitError(self._failures())
        if self.signal is not None and len(self.done) < len(keys):
            stopped = ", ".join(self.stopped) or "no stage"
            return {"status": "interrupted", "signal": self.signal, "stage": stopped, "stages": self.done}
        return self.pipeline.write_results({key: self.done[key] for key in keys})

    def _start(self, waiting: list[Stage], records: dict[str, Result | None]) -> list[Stage]:
        """Start all stages that can run now; return those that still wait."""
        left: list[Stage] = []
        held = any(self._alone(each.stage) for each in self.running)  # no other stage may start
        for stage in waiting:
            key, record = stage.key, records[stage.key]
            if any(each in self.failed for each in stage.after):
                self.failed[key] = ""
            elif any(each not in self.done for each in stage.after):
                left.append(stage)
            elif self._skipped(stage, record):
                continue
            elif held or len(self.running) >= self.jobs or (stage.alone and self.running):
                left.append(stage)
                held |= stage.alone  # it starts when the running ones have ended
            else:
                self._begin(stage, record is not None)
                held = self._alone(stage)
        return left

    def _skipped(self, stage: Stage, record: Result | None) -> bool:
        """Whether a stage needs no process: it is finished, or its inputs have changed, which is an error."""
        key = stage.key
        try:
            if record is None or not self.pipeline.finished(stage, record):
                return False
        except ConfigError as error:
            self.failed[key] = str(error)
            return True
        logger.info("%s: finished, skipped", key)
        self.done[key] = record
        return True

    def _begin(self, stage: Stage, continued: bool) -> None:
        folder = stage.folder
        folder.mkdir(parents=True, exist_ok=True)
        threads = max(1, threads_at_most() // (1 if self._alone(stage) else self.jobs))
        with open(folder / LOG, "ab") as log:
            process = start_child(
                ["-m", "vlkit", "run", *self.arguments, "--only", stage.key],
                {"OMP_NUM_THREADS": str(threads)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.running.append(_Running(stage, process, time.perf_counter()))
        logger.info("%s: %s, in %s", stage.key, "continued" if continued else "started", folder / LOG)

    def _alone(self, stage: Stage) -> bool:
        """Whether no stage may run at the same time, or none can, since each uses it or is used by it."""
        key = stage.key
        return stage.alone or all(
            each in self.above[key] or key in self.above[each] or each == key for each in self.above
        )

    def _wait(self, stop: StopRequest) -> None:
        """Wait until a stage ends, if any runs; pass a signal on to all of them, once."""
        ended: list[_Running] = []
        while self.running and not ended:
            ended = [each for each in self.running if each.process.poll() is not None]
            if stop.received is not None and self.signal is None:  # before _end: it may be why a stage ended
                self.signal = stop.received
                self._pass_on(self.signal)
            if not ended:
                time.sleep(_POLL_SECONDS)
        for each in ended:
            if each.process.stdin is not None:
                each.process.stdin.close()
            self.running.remove(each)
            self._end(each)

    def _end(self, ended: _Running) -> None:
        stage, code = ended.stage, ended.process.returncode
        record = read_record(stage.folder)
        seconds = time.perf_counter() - ended.since
        if code == 0 and record is not None and is_finished(record):
            self.done[stage.key] = record
            logger.info(
                "%s: finished after %.0f s (%d of %d)", stage.key, seconds, len(self.done), len(self.pipeline.stages)
            )
        elif self.signal is not None:
            self.stopped.append(stage.key)
        else:
            self.failed[stage.key] = _reason(stage.folder / LOG, code)
            logger.error("%s: failed after %.0f s", stage.key, seconds)

    def _pass_on(self, number: int) -> None:
        """Send a signal to the stages, which are in sessions of their own, so that the terminal's do not reach them."""
        for each in self.running:
            with contextlib.suppress(ProcessLookupError):
                each.process.send_signal(number)

    def _failures(self) -> str:
        lines = []
        for key, reason in self.failed.items():
            if reason:
                folder = self.pipeline.file.stage(key).folder
                lines.append(f"stage {key} failed: {reason} (its output: {folder / LOG})")
        left = [key for key, reason in self.failed.items() if not reason]
        if left:
            lines.append(f"not run, because they use what failed: {', '.join(left)}.")
        return "\n".join([*lines, "The same command skips what is finished and continues the rest."])


def _above(stages: Sequence[Stage]) -> dict[str, set[str]]:
    """Map each stage to all that it uses, directly or not; by key."""
    found: dict[str, set[str]] = {}
    for stage in stages:
        after = stage.after
        found[stage.key] = set(after).union(*(found[key] for key in after))
    return found


def threads_at_most() -> int:
    """Return the number of CPU threads to share: one for each core, or fewer if ``OMP_NUM_THREADS`` says so."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(limit)) if limit.isdigit() and int(limit) else cores()


def _reason(log: Path, code: int | None) -> str:
    """Return why a stage failed: the error in its log, or the last lines."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    if code == 2 and errors:
        return "\n".join(lines[errors[-1] :]).removeprefix("error: ")
    if code is not None and code < 0:
        return f"it was ended by {signal.Signals(-code).name}."
    return "\n".join([f"exit code {code}", *lines[-_LAST_LINES:]])
