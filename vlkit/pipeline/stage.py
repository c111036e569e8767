"""A stage of a pipeline: a job in a folder of its own, whose state is recorded in ``stage.json``."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlkit.errors import DataError, VlkitError, redacted_data
from vlkit.io.disk_errors import named
from vlkit.io.files import atomic_write
from vlkit.io.json import json_text, parse_json
from vlkit.jobs.base import Job, Pending, Result
from vlkit.jobs.capfilt import CapFiltJob
from vlkit.jobs.capfilt_output import RefilterJob, ReportJob
from vlkit.jobs.shards import ShardsJob
from vlkit.jobs.train import EvaluateJob, TrainJob
from vlkit.runner.writer import WriterLock

logger = logging.getLogger(__name__)
RECORD = "stage.json"
"""In a stage's folder: command, configuration, fingerprints of the inputs, status and metrics."""


class _StageTrainJob(TrainJob):
    """Train without a trial batch before the run: the first step would fail as soon."""

    first_batch = False


_JOBS: tuple[type[Job], ...] = (_StageTrainJob, EvaluateJob, ShardsJob, CapFiltJob, RefilterJob, ReportJob)
COMMANDS = {job.command: job for job in _JOBS}
"""Maps the command in a pipeline file to the class of its job."""


@dataclass(frozen=True)
class Stage:
    """A stage.

    Args:
        key: unique: the name, or ``seed_0/<name>``.
        name: in the pipeline file.
        folder: output folder.
        job: what it does.
        references: key paths of the job's configuration to the keys of the stages whose folders they name.
        after: keys of all these stages, in the order of the file.
        alone: whether no other stage may run at the same time.
    """

    key: str
    name: str
    folder: Path
    job: Job
    references: Mapping[str, Collection[str]]
    after: tuple[str, ...] = ()
    alone: bool = False

    def pending(self, unfinished: Collection[str]) -> Pending:
        """Return the key paths that refer to stages of which the output does not exist yet."""
        return Pending(frozenset(path for path, keys in self.references.items() if set(keys) & set(unfinished)))


def read_record(folder: Path) -> Result | None:
    """Read the record in the folder of a stage; None: the stage was not started.

    Raises:
        VlkitError: the record is damaged.
    """
    path = folder / RECORD
    if not os.path.lexists(path):
        return None
    try:
        with named(path, "read"):
            record = parse_json(path.read_bytes(), str(path))
    except DataError as error:
        raise VlkitError(f"{error} Delete the folder to run the stage again.") from error
    if not isinstance(record, dict) or not isinstance(record.get("status"), str):
        raise VlkitError(f"{path}: is no record of a stage. Delete the folder to run the stage again.")
    return record


def write_record(folder: Path, record: Result) -> None:
    """Write the record in the folder of a stage."""
    write_json(folder / RECORD, record)


def is_finished(record: Result | None) -> bool:
    """Whether a stage with this record is finished."""
    return record is not None and record["status"] == "finished"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Exclude other processes of this machine from the folder of a stage; wait for one that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "stage.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("%s: another process runs this stage; waiting for it.", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def set_aside(stages: Iterable[Stage], folder: Path) -> None:
    """Move the folders of stages to ``replaced/`` in the folder of the pipeline.

    Raises:
        ConfigError: a process is writing to one of them; then none is moved.
    """
    present = [each for each in stages if each.folder.exists()]
    for stage in present:
        WriterLock(stage.folder).refuse()
    for stage in present:
        number = 1
        while (target := folder / "replaced" / f"{stage.key}-{number}").exists():
            number += 1
        target.parent.mkdir(parents=True, exist_ok=True)
        stage.folder.rename(target)
        logger.info("%s: the previous folder was moved to %s", stage.key, target)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path, "w") as file:
        file.write(json_text(redacted_data(content), indent=1) + "\n")
