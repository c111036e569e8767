"""Detect a lost process of a run by heartbeats over the store of torch.distributed.

The timeout of a collective must be long, since one process may be busy for minutes with a checkpoint, compilation or
an evaluation. A busy process still sends its heartbeat, from a thread; one that died, is stopped, or whose host is gone
does not.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from vlkit.io.process_identity import is_dead, owner_name

logger = logging.getLogger(__name__)

LOST_VARIABLE = "VLKIT_LOST_AFTER_SECONDS"
LOST_AFTER = 35.0
"""Seconds without a heartbeat after which a process counts as lost."""
EXIT_CODE = 1
_ERROR = "ended with an error"
_starts = 0


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
