"""Lock an output folder: ``writer.json`` in it names the process that writes there, and its age shows that it lives."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import os
import platform
import shlex
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vlkit.errors import ConfigError, DataError, VlkitError, redacted_data
from vlkit.io.disk_errors import named
from vlkit.io.json import parse_json
from vlkit.io.processes import is_dead, is_of_this_machine, is_this_process, owner_name

logger = logging.getLogger(__name__)

FILE = "writer.json"
BEAT = 20.0
"""Seconds between two signs of life."""
SILENCE = 120.0
"""Seconds without one after which a process of another machine counts as dead."""
_WAIT = 10.0  # seconds to wait for another process that checks the folder
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_ADVICE = (
    "Wait until it has finished or stop it; or choose another run.output_dir; or, if it surely does not run any more, "
    "set run.take_over=true."
)


class FolderTaken(VlkitError):
    """Another process took the output folder over."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder.

    Args:
        owner: unique; from :func:`~vlkit.io.processes.owner_name`.
        host, pid, started, command: for messages.
        folder, inode: the held folder, to recognize a copy of it.
    """

    owner: str
    host: str = "an unknown host"
    pid: int = 0
    started: str = "an unknown time"
    command: str = "an unknown command"
    folder: str = ""
    inode: int = 0

    @classmethod
    def this_process(cls, folder: Path) -> Holder:
        """Create a new holder of ``folder``."""
        now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        command = shlex.join([Path(sys.argv[0]).name, *redacted_data(sys.argv[1:])]) if sys.argv else ""
        command = textwrap.shorten(command, 200, placeholder=" ...")
        return cls(owner_name(), platform.node(), os.getpid(), now, command, os.path.realpath(folder), _inode(folder))

    def is_copied_to(self, folder: Path) -> bool:
        """Return whether ``folder`` is a copy of the held one."""
        return bool(self.folder) and self.folder != os.path.realpath(folder) and self.inode != _inode(folder)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (started {self.started}: {self.command})"


_UNKNOWN = Holder("")


class WriterLock:
    """The right to write to an output folder.

    Args:
        folder: must exist when the lock is acquired.
        take_over: take the folder even from a process that lives; that one notices before it writes again.

    Attributes:
        on_lost: called once, from a thread, when another process has taken the folder over.
    """

    def __init__(self, folder: Path, take_over: bool = False):
        self.folder, self.take_over, self.file = folder, take_over, folder / FILE
        self.on_lost: Callable[[], object] = lambda: None
        self.me: Holder | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def refuse(self) -> None:
        """Check that no other living process holds the folder. Nothing is written.

        Raises:
            ConfigError: one does; the message names it.
        """
        if not self.take_over:
            self._refuse(time.time())

    def acquire(self) -> None:
        """Take the folder. One that a dead process holds is free.

        Raises:
            ConfigError: another process holds it.
            FileError: it cannot be written.
        """
        self.me = Holder.this_process(self.folder)
        try:
            with named(self.file), _alone(self.folder) as alone:
                self._sweep()
                with self._prepared(self.me) as fresh:
                    self._take(fresh, self.me, alone)
        except BaseException:
            self.me = None
            raise
        self._closed.clear()
        self._thread = threading.Thread(target=self._beat_until_closed, name="writer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that this process still holds the folder; call it before each write.

        Raises:
            FolderTaken: another process does.
        """
        if self.me is None or self.me.pid != os.getpid():
            return
        holder = self._read()
        if holder is None and self.folder.is_dir():  # the file was removed, or the folder was created again
            with contextlib.suppress(OSError):
                self.me = replace(self.me, inode=_inode(self.folder))
                with self._prepared(self.me) as fresh:
                    _create(self.file, fresh)
            holder = self._read()
        if holder is not None and holder.owner != self.me.owner:
            raise FolderTaken(
                f"{self.folder} was taken over by {holder}. This run stops, and writes nothing there any more."
            )

    def release(self) -> None:
        """Give the folder back, if it is still held."""
        self._closed.set()
        me, self.me = self.me, None
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if me is not None:
            with contextlib.suppress(OSError), _alone(self.folder):
                holder = self._read()
                if holder is not None and holder.owner == me.owner:
                    self.file.unlink()

    @contextlib.contextmanager
    def _prepared(self, me: Holder) -> Iterator[Path]:
        """Write the new content to a temporary file, which is removed on leaving the context if it is still there."""
        fresh = self.file.with_name(f".{FILE}.{me.owner}")
        try:
            fresh.write_text(json.dumps(asdict(me), indent=1) + "\n")
            yield fresh
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove temporary files of processes that were killed while they took the folder."""
        for left in self.folder.glob(f".{FILE}.*"):
            if is_dead(left.name.removeprefix(f".{FILE}.")):
                left.unlink(missing_ok=True)

    def _take(self, fresh: Path, me: Holder, alone: bool) -> None:
        """Move ``fresh`` to the place of the file, unless a living process holds that.

        Args:
            alone: whether the file system keeps other processes out meanwhile.
        """
        now = fresh.stat().st_mtime  # by the clock of the file system, as the signs of life are
        before = self._read()
        if before is None and _create(self.file, fresh):
            return
        if not self.take_over:
            self._refuse(now)
        before = self._read()
        os.replace(fresh, self.file)
        if before is not None and not is_this_process(before.owner) and not before.is_copied_to(self.folder):
            logger.warning("%s is taken over from %s.", self.folder, before)
        if not alone:  # of two that replace it at the same time the last one wins
            time.sleep(0.5)
            holder = self._read()
            if holder is None or holder.owner != me.owner:
                raise ConfigError(f"{self.folder} was taken by {holder} at the same moment. {_ADVICE}")

    def _refuse(self, now: float) -> None:
        holder = self._read()
        if holder is None:
            return
        try:
            silent = abs(now - self.file.stat().st_mtime)
        except OSError:  # it was just given back
            return
        here = is_of_this_machine(holder.owner)
        copied = here and holder.is_copied_to(self.folder)
        gone = copied or is_dead(holder.owner) or (not here and silent > SILENCE)
        if gone or is_this_process(holder.owner):  # an earlier lock of this process gives way
            return
        life = "" if here else f" Its last sign of life is {silent:.0f} s old; after {SILENCE:.0f} s it counts as dead."
        raise ConfigError(f"{self.folder} is being written by {holder}.{life} {_ADVICE}")

    def _read(self) -> Holder | None:
        """Return the holder of the folder, or None."""
        try:
            content = self.file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = {"folder": "", "inode": 0, **parse_json(content, str(self.file))}
            return Holder(**{key: type(value)(found[key]) for key, value in asdict(_UNKNOWN).items()})
        except (DataError, TypeError, KeyError, ValueError):
            return _UNKNOWN  # damaged by a crash of the machine, for example; its age decides

    def _beat_until_closed(self) -> None:
        warned = False
        while not self._closed.wait(BEAT):
            try:
                self.check()
                os.utime(self.file)
                warned = False
            except FolderTaken as error:
                logger.error("%s", error)
                self.on_lost()
                return
            except OSError as error:  # the storage may be back before the others count this process as dead
                if not warned:
                    logger.warning("%s cannot be refreshed: %s.", self.file, error.strerror or error)
                warned = True


def _inode(folder: Path) -> int:
    """Return the number of a folder in its file system; 0: unknown."""
    try:
        return folder.stat().st_ino
    except OSError:
        return 0


def _create(file: Path, fresh: Path) -> bool:
    """Give ``fresh`` the name ``file`` unless that exists; return whether it did."""
    try:
        try:
            os.link(fresh, file)  # unlike O_EXCL, with all its content at once
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(file, "xb") as stream:
                stream.write(fresh.read_bytes())
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Keep other processes out of this context for the same folder, where its file system can lock folders.

    Yields:
        Whether it can.
    """
    handle, can_lock = None, False
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        end = time.monotonic() + _WAIT
        while time.monotonic() < end:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                can_lock = True
                break
            except BlockingIOError:
                can_lock = True
                time.sleep(0.01)
    try:
        yield can_lock
    finally:
        if handle is not None:
            os.close(handle)
