"""Communicate among the processes that ``torchrun`` started, and detect lost ones by heartbeats.

The timeout of a collective must be long, since one process may be busy for minutes with a checkpoint, compilation or
an evaluation. A busy process still sends its heartbeat to the store of torch.distributed, from a thread; one that died,
is stopped, or whose host is gone does not. A single process communicates nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist

from vlkit.errors import ConfigError, LostProcess, VlkitError
from vlkit.io.processes import is_dead, owner_name

logger = logging.getLogger(__name__)
T = TypeVar("T")

TIMEOUT_VARIABLE = "VLKIT_TIMEOUT_SECONDS"
_TIMEOUT_SECONDS = 1800.0
LOST_VARIABLE = "VLKIT_LOST_AFTER_SECONDS"
LOST_AFTER = 35.0
"""Seconds without a heartbeat after which a process counts as lost."""
EXIT_CODE = 1
_ERROR = "ended with an error"
_starts = 0


class World:
    """The processes of a run, seen from this one.

    Attributes:
        rank: 0 <= rank < size; 0 writes files and logs.
        local_rank: rank among the processes of this machine, which selects the GPU.
        size: number of processes.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self._started_here = False

    _heartbeat: ClassVar[Heartbeat | None] = None  # of this Python process, as torch's default group is

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def start(self, device: torch.device) -> None:
        """Connect to the other processes from the environment of ``torchrun``: gloo, and also NCCL on CUDA.

        A collective fails after ``VLKIT_TIMEOUT_SECONDS`` (default 1800). A process that died, is stopped or cannot be
        reached is detected earlier: after ``VLKIT_LOST_AFTER_SECONDS`` (default 35) without its heartbeat the others
        end with a message that names it.

        Raises:
            ConfigError: several processes cannot share this kind of device.
        """
        if self.size == 1 or dist.is_initialized():
            return
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"several processes need run.device cpu or cuda, not {device.type!r}.")
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        seconds = float(os.environ.get(TIMEOUT_VARIABLE, _TIMEOUT_SECONDS))
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
        self._started_here = True
        World._heartbeat = start_heartbeat(self.rank, self.size)

    def finish(self) -> None:
        """Disconnect, if :meth:`start` connected."""
        if self._started_here:
            if World._heartbeat is not None:
                World._heartbeat.leave()
                World._heartbeat = None
            dist.destroy_process_group()
            self._started_here = False

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn the backend's error on a lost process into one that names it; announce other errors to the others.

        Raises:
            LostProcess: another process died, stopped, or ended with an error.
        """
        try:
            yield
        except BaseException as error:
            heartbeat = World._heartbeat
            if heartbeat is None or isinstance(error, LostProcess):
                raise
            if not is_communication_error(error):
                heartbeat.fail(error)
                raise
            first = (str(error).splitlines() or [type(error).__name__])[0]
            reason = heartbeat.wait_for_loss() or f"the connection to another process failed ({first})"
            raise LostProcess(lost_message(reason)) from error

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Keep this process running inside the context although another one is lost."""
        heartbeat = World._heartbeat
        if heartbeat is not None:
            heartbeat.saving = True
        try:
            yield
        finally:
            if heartbeat is not None:
                heartbeat.saving = False

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, in float64 through the CPU, which does not wait for the GPU."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, items: Sequence[Any]) -> list[Any]:
        """Return the lists of all processes joined in rank order, in every process."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def on_main(self, action: Callable[[], T]) -> T:
        """Run ``action`` in process 0 and return its result in every process. An error is raised in all of them, in the
        others as a VlkitError with the same message."""
        if self.size == 1:
            return action()
        result: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_main:
            try:
                result[0] = action()
            except VlkitError as error:
                failure, result[1] = error, str(error)
            except Exception as error:  # any error of a task or a tracker: the others wait
                failure, result[1] = error, f"process 0 failed: {type(error).__name__}: {error}"
        dist.broadcast_object_list(result, src=0)
        if result[1] is not None:
            raise failure or VlkitError(result[1])
        return result[0]


class Heartbeat:
    """Send the heartbeat of this process to the store, and watch those of others.

    Each process watches the next rank, and all processes of its own host by their process ids. A process that finds one
    lost writes it to the store, where the others read it.

    Args:
        rank: of this process.
        size: number of processes.
        host, port: of the store: ``MASTER_ADDR`` and ``MASTER_PORT``.

    Attributes:
        lost: a sentence on what happened to another process, or None.
        saving: whether the main thread writes a checkpoint without the others; the process is not ended meanwhile.
    """

    def __init__(self, rank: int, size: int, host: str, port: int):
        global _starts
        _starts += 1  # every process starts equally often; keys of an earlier start or restart do not count
        self.rank, self.size, self.address = rank, size, f"{host}:{port}"
        self.lost: str | None = None
        self.saving = False
        self.seconds = float(os.environ.get(LOST_VARIABLE, LOST_AFTER))
        self._interval = self.seconds / 7
        self._prefix = f"vlkit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{_starts}"
        self._store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False)
        self._others: dict[int, dict[str, str]] = {}
        self._left: set[int] = set()
        self._next = (rank + 1) % size
        self._count, self._counted_at = -1, time.monotonic()
        self._contact = time.monotonic()
        self._dead_since: dict[int, float] = {}
        self._stop, self._found = threading.Event(), threading.Event()
        me = {"host": platform.node(), "pid": str(os.getpid()), "owner": owner_name()}
        self._store.set(self._key("process", rank), json.dumps(me))
        for action in (self._beat, self._watch):
            threading.Thread(target=action, name=f"vlkit-{action.__name__}", daemon=True).start()

    def leave(self) -> None:
        """Announce that this process ends in order, and stop watching."""
        self._write("left", "1", self.rank)
        self._stop.set()

    def fail(self, error: BaseException) -> None:
        """Announce that this process ends with ``error``, and stop watching."""
        first = (str(error).splitlines() or [""])[0]
        self._write("lost", f"{self.name(self.rank)} {_ERROR}: {type(error).__name__}: {first}")
        self._stop.set()

    def wait_for_loss(self) -> str | None:
        """Wait until another process is known to be lost, at most a few seconds longer than detection takes.

        Returns:
            What happened, or None. The heartbeat does not end this process afterwards.
        """
        self._found.wait(self.seconds + 3 * self._interval)
        self._stop.set()
        return self.lost

    def name(self, rank: int) -> str:
        """Return a rank with its process id and host, if known."""
        other = self._others.get(rank)
        return f"rank {rank}" + (f" (process {other['pid']} on {other['host']})" if other else "")

    def _key(self, name: str, rank: int | None = None) -> str:
        return f"{self._prefix}/{name}" + ("" if rank is None else f"/{rank}")

    def _write(self, name: str, text: str, rank: int | None = None) -> None:
        """Write to the store from a thread, since a stopped store never answers."""

        def write() -> None:
            try:
                self._store.set(self._key(name, rank), text)
            except (RuntimeError, ValueError) as error:
                logger.debug("the store at %s was not written: %s", self.address, error)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        thread.join(self._interval)

    def _beat(self) -> None:
        while not self._stop.is_set():
            try:
                self._exchange()
                self._contact = time.monotonic()
            except (RuntimeError, ValueError) as error:  # the store is gone; _watch counts the seconds
                logger.debug("no answer from the store at %s: %s", self.address, error)
            self._stop.wait(self._interval)

    def _exchange(self) -> None:
        """Send a heartbeat, and read the state of the others from the store."""
        store = self._store
        store.add(self._key("beat", self.rank), 1)
        for rank in set(range(self.size)) - set(self._others):
            if store.check([self._key("process", rank)]):
                self._others[rank] = json.loads(store.get(self._key("process", rank)))
        count = store.add(self._key("beat", self._next), 0)
        if count != self._count:
            self._count, self._counted_at = count, time.monotonic()
        for rank in {self._next, *self._dead_since} - self._left:
            if store.check([self._key("left", rank)]):
                self._left.add(rank)
        if store.check([self._key("lost")]):
            reason = store.get(self._key("lost")).decode()
            # After an error elsewhere this process may raise its own; after a silent loss it only waits.
            self._end(reason, (6 if _ERROR in reason else 2) * self._interval)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(self._interval / 4):
            now = time.monotonic()
            if now - before > self.seconds / 2:  # this process itself was stopped, or the machine was
                self._counted_at = self._contact = now
                self._dead_since.clear()
            before = now
            reason = self._reason(now)
            if reason is not None:
                self._write("lost", reason)
                self._end(reason, self._interval)
                return

    def _reason(self, now: float) -> str | None:
        """Return which process is lost and why, or None."""
        for rank, other in list(self._others.items()):
            if rank not in self._left and rank != self.rank and is_dead(other["owner"]):
                since = self._dead_since.setdefault(rank, now)
                if now - since > 1.5 * self._interval:  # enough to read that it left in order
                    return f"{self.name(rank)} has ended unexpectedly"
        if now - self._contact > self.seconds:
            return f"the store at {self.address}, on the host of rank 0, has not answered for {self.seconds:.0f} s"
        if self._next not in self._left and now - self._counted_at > self.seconds:
            return f"{self.name(self._next)} has given no sign of life for {self.seconds:.0f} s"
        return None

    def _end(self, reason: str, grace: float) -> None:
        """Let the main thread end by itself; end the process if it does not, as it may wait for the lost one."""
        self.lost = reason
        self._found.set()
        while not self._stop.wait(grace):
            if not self.saving:
                sys.stderr.write(f"error (process {self.rank}): {lost_message(reason)}\n")
                sys.stderr.flush()
                os._exit(EXIT_CODE)
            grace = self._interval


def start_heartbeat(rank: int, size: int) -> Heartbeat | None:
    """Start the heartbeat of this process; None without ``MASTER_ADDR``, or if the store cannot be reached."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdigit():
        return None
    try:
        return Heartbeat(rank, size, host, int(port))
    except (RuntimeError, ValueError) as error:
        logger.warning("no heartbeat between the processes: the store at %s:%s does not answer (%s)", host, port, error)
        return None


def lost_message(reason: str) -> str:
    """Return the message of a process that ends because another one did."""
    return (
        f"{reason}. This process ends too, since the others cannot continue without it. Start the same command again: "
        "it resumes from the newest checkpoint."
    )


def is_communication_error(error: BaseException) -> bool:
    """Return whether the backend reports a lost peer, in contrast to a mistake in a model or task."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("gloo", "nccl", "connection closed", "connection reset", "socket", "broken pipe")
    )
