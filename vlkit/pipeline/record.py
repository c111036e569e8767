"""What a stage leaves in its folder: ``stage.json``."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlkit.errors import DataError, VlkitError, redacted_data
from vlkit.io.disk_errors import named
from vlkit.io.files import atomic_write
from vlkit.io.json_reader import parse_json
from vlkit.io.json_writer import json_text
from vlkit.pipeline.stages.base import Record, Stage
from vlkit.runner.writer import WriterLock

logger = logging.getLogger(__name__)
RECORD = "stage.json"
"""In a stage's folder: its command, configuration, what identifies the things that it used, status and scores."""


def read_record(folder: Path) -> Record | None:
    """What a stage left in its folder; None: it was not begun.

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


def write_record(folder: Path, record: Record) -> None:
    """Leave a record in the folder of a stage."""
    write_json(folder / RECORD, record)


def is_finished(record: Record | None) -> bool:
    """Whether a stage with this record is done."""
    return record is not None and record["status"] == "finished"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """While entered, no other process of this machine is in here with the same folder; wait until that is so."""
    import portalocker
    from iopath.common.file_io import file_lock

    folder.mkdir(parents=True, exist_ok=True)
    lock = file_lock(str(folder / "stage"))
    try:
        lock.acquire(timeout=0)
    except portalocker.LockException:
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
        logger.info("%s: what was there is in %s now", stage.key, target)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one piece."""
    with atomic_write(path, "w") as file:
        file.write(json_text(redacted_data(content), indent=1) + "\n")
