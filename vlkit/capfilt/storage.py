"""Storage of a job's output: a local directory or an fsspec URL behind one interface."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vlkit.capfilt.backends import LocalStore, store_of
from vlkit.errors import VlkitError
from vlkit.io.disk_errors import full_disk, is_full_disk
from vlkit.io.processes import is_dead, owner_name

UNFINISHED = ".unfinished"
"""Folder of files that are being written, below a local place."""
_CLOCK_SECONDS = 300.0
_ABANDONED_SECONDS = 86400.0


class Storage:
    """Storage of a job's output: a local directory or a URL. Names are relative, with "/" between folders.

    A file appears under its name as a whole or not at all: on a local folder by a rename after the bytes are on the
    disk, on an object store because uploads are like that.

    Args:
        url: a path, ``file://...``, a URL that fsspec knows (``s3://bucket/folder``, ``gs://``, ``memory://``...), or
            one that a handler of :func:`vlkit.io.fetch.path_manager` takes.

    Raises:
        VlkitError: no such kind of URL, or the package that it needs is not installed. All methods raise it, too, when
            the storage fails.
    """

    def __init__(self, url: str | Path):
        self.url = os.fspath(url)
        self._store = store_of(self.url)
        self._scratch: Path | None = None
        self._lock = threading.Lock()
        self._clock: tuple[float, float] | None = None  # (its time - ours, when measured)
        self._first_seen: dict[str, tuple[bytes, float]] = {}

    def __str__(self) -> str:
        return self.url

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def local(self) -> Path | None:
        """The local directory; None for a URL."""
        return self._store.folder if isinstance(self._store, LocalStore) else None

    @property
    def scratch(self) -> Path:
        """A local folder of this process for files that :meth:`put` takes when they are finished.

        On a local place it lies on the same disk, so that nothing is copied.
        """
        with self._lock, self._explained(UNFINISHED, "written"):
            if self._scratch is None:
                self._scratch = self._new_scratch()
            return self._scratch

    def close(self) -> None:
        """Remove the scratch folder."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        if self.local is not None:
            self._sweep(self.local / UNFINISHED)

    def _new_scratch(self) -> Path:
        if self.local is None:
            return Path(tempfile.mkdtemp(prefix="vlkit-"))
        self._sweep(self.local / UNFINISHED)
        folder = self.local / UNFINISHED / owner_name()
        while not folder.is_dir():
            with contextlib.suppress(FileNotFoundError):  # another process swept the empty folder above it
                folder.mkdir(parents=True)
        return folder

    @staticmethod
    def _sweep(unfinished: Path) -> None:
        """Remove unfinished files of dead processes of this machine, and of others after a day."""
        for folder in unfinished.glob("*"):
            with contextlib.suppress(OSError):
                if is_dead(folder.name) or time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # others are in it
            unfinished.rmdir()

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        with self._explained(name, "read"):
            return self._store.open(_checked(name))

    def read_bytes(self, name: str) -> bytes:
        """Read a file."""
        with self._explained(name, "read"), self._store.open(_checked(name)) as file:
            return file.read()

    def exists(self, name: str) -> bool:
        """Return whether there is a file (or folder) of this name."""
        with self._explained(name, "looked up"):
            return self._store.exists(_checked(name))

    def list(self, folder: str) -> list[str]:
        """List the sorted names of the files in ``folder``; none where there is no such folder."""
        with self._explained(folder, "listed"):
            return sorted(name for name in self._store.names(_checked(folder)) if not name.startswith("."))

    def put(self, name: str, local: Path) -> None:
        """Make a file of this machine appear under ``name``, replacing what is there; ``local`` is gone afterwards."""
        with self._explained(name, "written", local.stat().st_size):
            self._store.put(_checked(name), local)
            local.unlink(missing_ok=True)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Make these bytes appear under ``name``, replacing what is there."""
        self.put(_checked(name), self._written(name, data))

    def create(self, name: str, data: bytes) -> bool:
        """Make these bytes appear under ``name`` unless something is there; whether they did.

        Of several processes that try at once exactly one succeeds on a local folder. Elsewhere the name is looked up
        and then written, so that in rare cases several do.
        """
        local = self._written(name, data)
        with self._explained(name, "written"):
            try:
                return self._store.create(_checked(name), local)
            finally:
                local.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file; no error if it is gone already."""
        with self._explained(name, "removed"), contextlib.suppress(FileNotFoundError):
            self._store.remove(_checked(name))

    def age(self, name: str) -> float | None:
        """Return the seconds since the file was written, by the clock of the storage; None: there is no such file.

        Where the storage tells no times: seconds since this object first saw the present content.
        """
        with self._explained(name, "looked up"):
            try:
                written = self._store.modified(_checked(name))
            except FileNotFoundError:
                return None
        if written is not None:
            return max(0.0, self._now() - written)
        content = self.read_bytes(name) if self.exists(name) else None
        if content is None:
            return None
        if self._first_seen.get(name, (None, 0.0))[0] != content:
            self._first_seen[name] = (content, time.monotonic())
        return time.monotonic() - self._first_seen[name][1]

    def _now(self) -> float:
        """Return the time of the storage's clock, which may be wrong: it is measured from time to time with a file."""
        if self._clock is None or time.monotonic() - self._clock[1] > _CLOCK_SECONDS:
            name = f"{UNFINISHED}/{self.scratch.name}/clock-{owner_name()}"
            self.write_bytes(name, b"")
            with self._explained(name, "looked up"):
                theirs = self._store.modified(name)
            self.remove(name)
            self._clock = ((theirs or 0.0) - time.time(), time.monotonic())
        return time.time() + self._clock[0]

    def _written(self, name: str, data: bytes) -> Path:
        """Write a scratch file."""
        local = self.scratch / owner_name()
        with self._explained(name, "written", len(data)):
            local.write_bytes(data)
        return local

    @contextlib.contextmanager
    def _explained(self, name: str, done: str, need: int | None = None) -> Iterator[None]:
        """Turn errors of the storage into a VlkitError that names the file (of ``need`` bytes) and the operation."""
        where = f"{self.url.rstrip('/')}/{name}"
        try:
            yield
        except VlkitError:
            raise
        except Exception as error:  # of a library of a storage it can be anything
            if is_full_disk(error):
                raise full_disk(Path(where), 0, need) from error
            if done == "read" and isinstance(error, FileNotFoundError):
                raise VlkitError(f"{where}: there is no such file.") from error
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise VlkitError(f"{where}: cannot be {done} ({reason}). Correct that, or choose another place.") from error


def _checked(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts):
        raise VlkitError(f"{name!r} cannot be the name of an output file: it has to stay inside the output folder.")
    return name
