"""Start worker processes on this machine, which share the work of a job through claims.

Under ``torchrun`` there is nothing to launch: each of its processes is a worker, takes the GPU that ``LOCAL_RANK``
names, and meets no others, so that a restart by torchrun continues with what is not done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlkit.errors import VlkitError
from vlkit.io.processes import cores, start_child
from vlkit.registry.bounds import MOST_PROCESSES

logger = logging.getLogger(__name__)
_COMMAND = ("-m", "vlkit", "capfilt")
_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 60.0
_LAST_LINES = 5
_ERROR = "error: "  # how the command line begins what the user can fix


@dataclass
class Worker:
    """A process that was started here.

    Attributes:
        log: what it prints, after what earlier runs printed.
        start: where in the log this run begins, in bytes.
    """

    index: int
    process: subprocess.Popen[bytes]
    log: Path
    start: int

    def printed(self) -> str:
        """Return the output of this run."""
        with open(self.log, "rb") as file:
            file.seek(self.start)
            return file.read().decode(errors="replace")


def launch(count: int, arguments: Sequence[str], log_folder: Path, show: Callable[[str], object]) -> int:
    """Run ``vlkit capfilt`` in several processes until all have ended; the first failure ends the others.

    Args:
        count: of processes; process i takes GPU i, and its share of the CPU cores.
        arguments: of each ``vlkit capfilt``.
        log_folder: gets ``worker_<i>.log``.
        show: given what worker 0 prints, line by line and without the end of the line.

    Returns:
        The exit code: 0, 128 + signal when a signal ended it, that of the worker that failed.

    Raises:
        VlkitError: the error of a worker that the user can fix, or torchrun has started several processes already.
    """
    check_workers(count)
    log_folder.mkdir(parents=True, exist_ok=True)
    workers: list[Worker] = []
    with _forwarded_signals(workers) as received:
        try:
            for index in range(count):
                workers.append(_start(index, count, arguments, log_folder / f"worker_{index}.log"))
            failed = _watch(workers, received, show)
        finally:
            end([worker.process for worker in workers])
    if received:
        return 128 + received[0]
    return 0 if failed is None else _report(failed)


def start_worker(arguments: Sequence[str], local_rank: int, environment: Mapping[str, str], **options: Any) -> Any:
    """Start ``vlkit capfilt`` in a process group of its own, which ends when this process does.

    Args:
        arguments: of the command.
        local_rank: chooses its GPU.
        environment: added to that of this process.
        options: of ``subprocess.Popen``.
    """
    return start_child([*_COMMAND, *arguments], {**environment, "LOCAL_RANK": str(local_rank)}, **options)


def end(processes: Sequence[Any]) -> None:
    """Ask processes to end, and kill those that do not within a minute."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    until = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def check_workers(count: int) -> None:
    """Check the number of workers of this machine.

    Raises:
        VlkitError: it is no number of processes, or torchrun has started several already.
    """
    if not 1 <= count <= MOST_PROCESSES:
        raise VlkitError(f"--workers {count}: a number of processes from 1 to {MOST_PROCESSES:,} is needed.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise VlkitError("--workers: torchrun has started several processes, each of which is a worker; leave it out.")


def _start(index: int, count: int, arguments: Sequence[str], log: Path) -> Worker:
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // count)))}
    with open(log, "ab") as file:
        start = file.tell()
        process = start_worker(arguments, index, environment, stdout=file, stderr=subprocess.STDOUT)
    return Worker(index, process, log, start)


@contextlib.contextmanager
def _forwarded_signals(workers: Sequence[Worker]) -> Iterator[list[int]]:
    """Forward SIGTERM and SIGINT to the workers while entered; the list holds those received."""
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(number)

    main = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT) if main}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(workers: Sequence[Worker], received: Sequence[int], show: Callable[[str], object]) -> Worker | None:
    """Wait until all have ended; return the first that fails, unless a signal was the reason."""
    with open(workers[0].log, "rb") as shown:
        shown.seek(workers[0].start)
        while True:
            running = [worker for worker in workers if worker.process.poll() is None]
            for line in shown.read().decode(errors="replace").splitlines():
                if not line.startswith(_ERROR):  # the caller says it, once for all workers
                    show(line)
            failed = next((worker for worker in workers if worker.process.returncode), None)
            if failed and not received:
                return failed
            if not running:
                return None
            time.sleep(_LOOK_SECONDS)


def _report(failed: Worker) -> int:
    code, printed = failed.process.returncode, failed.printed()
    message = re.findall(rf"^{_ERROR}(.*)", printed, re.MULTILINE | re.DOTALL)
    if code == 2 and message:
        raise VlkitError(message[-1].strip())
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    last = "\n".join(f"  {line}" for line in printed.splitlines()[-_LAST_LINES:])
    logger.error(
        "worker %d %s. The others were ended, too; nothing that is done is lost, the same command resumes. "
        "Its last lines (all are in %s):\n%s",
        *(failed.index, how, failed.log, last),
    )
    return 128 - code if code < 0 else code
