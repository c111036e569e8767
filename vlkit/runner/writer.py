"""One writer for each output folder: a small file in it names the process that holds it, and shows that it lives."""

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
from vlkit.io.json_reader import parse_json
from vlkit.io.process_identity import is_dead, is_of_this_machine, is_this_process, owner_name

logger = logging.getLogger(__name__)

FILE = "writer.json"
BEAT = 20.0
"""Seconds between two signs of life."""
SILENCE = 120.0
"""Seconds without one after which a process of another machine counts as dead."""
_WAIT = 10.0  # seconds for the short time in which another process looks at the folder
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class FolderTaken(VlkitError):
    """The folder of a run was taken over by another process."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a folder.

    Args:
        owner: unique; from :func:`~vlkit.io.process_identity.owner_name`.
        host, pid, started, command: for people.
        folder, inode: which folder, so that a copy of it is known as one.
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
        """A new holder of ``folder``."""
        now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        command = shlex.join([Path(sys.argv[0]).name, *redacted_data(sys.argv[1:])]) if sys.argv else ""
        command = textwrap.shorten(command, 200, placeholder=" ...")
        return cls(owner_name(), platform.node(), os.getpid(), now, command, os.path.realpath(folder), _inode(folder))

    def is_copied_to(self, folder: Path) -> bool:
        """Whether ``folder`` is a copy of the one that is held."""
        return bool(self.folder) and self.folder != os.path.realpath(folder) and self.inode != _inode(folder)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (started {self.started}: {self.command})"


class WriterLock:
    """The right to write to an output folder.

    Args:
        folder: exists when the lock is acquired.
        take_over: whether the folder is taken from a process that lives. That one notices before it writes again.

    Attributes:
        on_lost: called once, by a thread, when another process has taken the folder over.
    """

    def __init__(self, folder: Path, take_over: bool = False):
        self.folder, self.take_over, self.file = folder, take_over, folder / FILE
        self.on_lost: Callable[[], object] = lambda: None
        self.me: Holder | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def refuse(self) -> None:
        """Raise if another process that lives holds the folder. Nothing is written.

        Raises:
            ConfigError: one does; the message says which.
        """
        if not self.take_over:
            self._refuse(time.time())

    def acquire(self) -> None:
        """Take the folder; one that a dead process holds is free.

        Raises:
            ConfigError: another process holds it.
            FileError: it cannot be written.
        """
        self.me = Holder.this_process(self.folder)
        fresh = self.file.with_name(f".{FILE}.{self.me.owner}")
        try:
            with named(self.file), _alone(self.folder):
                self._sweep()
                fresh.write_text(json.dumps(asdict(self.me), indent=1) + "\n")
                self._take(fresh)
        except BaseException:
            self.me = None
            raise
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
        self._closed.clear()
        self._thread = threading.Thread(target=self._beat_until_closed, name="writer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise unless this process still holds the folder; call it before each write.

        Raises:
            FolderTaken: another one does.
        """
        if self.me is None or self.me.pid != os.getpid():
            return
        holder = self._read()
        if holder is None and self.folder.is_dir():  # somebody removed the file, or the folder was made again
            fresh = self.file.with_name(f".{FILE}.{self.me.owner}")
            with contextlib.suppress(OSError):
                self.me = replace(self.me, inode=_inode(self.folder))
                fresh.write_text(json.dumps(asdict(self.me), indent=1) + "\n")
                _create(self.file, fresh)
                fresh.unlink()
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

    def _sweep(self) -> None:
        """Remove what processes left that were killed while they took the folder."""
        for left in self.folder.glob(f".{FILE}.*"):
            if is_dead(left.name.removeprefix(f".{FILE}.")):
                left.unlink(missing_ok=True)

    def _take(self, fresh: Path) -> None:
        """Put ``fresh`` in the place of the file, if that is not there or of a dead process."""
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
        if not _locks(self.folder):  # of two that replace it at the same time the last one wins
            time.sleep(0.5)
            holder = self._read()
            if holder is None or self.me is None or holder.owner != self.me.owner:
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
        if gone or is_this_process(holder.owner):  # what this process began before stops
            return
        life = "" if here else f" Its last sign of life is {silent:.0f} s old; after {SILENCE:.0f} s it counts as dead."
        raise ConfigError(f"{self.folder} is being written by {holder}.{life} {_ADVICE}")

    def _read(self) -> Holder | None:
        """Who holds the folder; None: nobody."""
        try:
            content = self.file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            found = {"folder": "", "inode": 0, **parse_json(content, str(self.file))}
            return Holder(**{key: type(value)(found[key]) for key, value in asdict(_UNKNOWN).items()})
        except (DataError, TypeError, KeyError, ValueError):
            return _UNKNOWN  # by a crash of the machine, say; its age decides

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


_UNKNOWN = Holder("")
_ADVICE = (
    "Wait until it has finished or stop it; or choose another run.output_dir; or, if it surely does not run any more, "
    "set run.take_over=true."
)


def _inode(folder: Path) -> int:
    """The number of a folder in its file system; 0: unknown."""
    try:
        return folder.stat().st_ino
    except OSError:
        return 0


def _create(file: Path, fresh: Path) -> bool:
    """Give ``fresh`` the name ``file`` unless that exists; whether it did."""
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
def _alone(folder: Path) -> Iterator[None]:
    """While entered, no other process is in here with the same folder, where its file system can lock folders."""
    handle = None
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        end = time.monotonic() + _WAIT
        while time.monotonic() < end:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locks(folder: Path) -> bool:
    """Whether the file system can lock folders."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # by this process
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
