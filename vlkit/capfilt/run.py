"""Does a job: in this process, or in several that it starts."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vlkit.capfilt.engine import SUMMARY, summary_of
from vlkit.capfilt.job import CheckResult, Job
from vlkit.capfilt.launch import check_workers, launch
from vlkit.capfilt.place import Place
from vlkit.errors import VlkitError
from vlkit.io.child_processes import cores, end_with_parent
from vlkit.runner.signals import StopRequest

logger = logging.getLogger(__name__)
LOGS = "log"
_PROMISE = "the worker stops after this batch; the same command goes on behind the last finished shard"


def run_job(
    job: Job,
    workers: int | None = None,
    show: Callable[[str], object] = logger.info,
    arguments: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Do what is left of a job.

    Args:
        job: what to do.
        workers: processes to start on this machine; None: this process does it.
        show: given each line that the first of several processes prints.
        arguments: of ``vlkit capfilt`` that give this job, for several processes; None: it is written to a file.

    Returns:
        ``status``: "finished" with the counts of the whole job, or "interrupted" with ``signal``; ``seconds`` of this
        call. ``worked``: of this process alone its images, images a second and so on; None where it did nothing.

    Raises:
        VlkitError: everything that is wrong with the job, or the output cannot be written.
    """
    start, worked = time.monotonic(), None
    if workers is not None:
        check_workers(workers)
    looked = job.check()
    if looked.summary is not None:
        result = {"status": "finished", **looked.summary}
    elif workers is not None:
        result = _in_others(job, workers, show, arguments)
    else:
        result, worked = _here(job, looked)
    return {**result, "seconds": time.monotonic() - start, "worked": worked}


def _here(job: Job, looked: CheckResult) -> tuple[dict[str, Any], dict[str, Any]]:
    with StopRequest(_PROMISE) as request, Place(job.output_dir) as place, _threads(job.file.run.threads):
        end_with_parent()
        ready = job.prepare(looked)
        free = cores() // job.file.run.threads
        if ready.annotator.device.type == "cpu" and free > 1 and "LOCAL_RANK" not in os.environ:
            logger.info("one process with %d of %d cores; --workers %d uses all", job.file.run.threads, cores(), free)
        worker = job.worker(ready, place, lambda: request.received is not None)
        summary = worker.run()
        if summary is None:
            return {"status": "interrupted", "signal": request.received}, worker.progress.facts()
        return {"status": "finished", **summary}, worker.progress.facts()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """While entered, torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_others(
    job: Job, workers: int, show: Callable[[str], object], arguments: Sequence[str] | None
) -> dict[str, Any]:
    with Place(job.output_dir) as place, tempfile.TemporaryDirectory(prefix="vlkit-") as folder:
        if arguments is None:
            file = Path(folder, "job.yaml")
            file.write_text(job.as_yaml(), encoding="utf-8")
            arguments = [str(file)]
        if place.local is not None:
            log_folder = place.local / LOGS
        else:
            log_folder = Path(tempfile.mkdtemp(prefix="vlkit-log-"))
            logger.info("the workers' logs are in %s", log_folder)
        code = launch(workers, arguments, log_folder, show)
        if code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
            return {"status": "interrupted", "signal": code - 128}
        if code or not place.exists(SUMMARY):
            raise VlkitError(f"a worker failed (exit code {code}); the same command goes on where they stopped.")
        return {"status": "finished", **summary_of(place)}
