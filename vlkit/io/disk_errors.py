"""Errors of the operating system about files, in words: which file, what happened, what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from vlkit.errors import VlkitError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = {
    errno.ENOSPC: "Make room there, or write elsewhere.",
    errno.EDQUOT: "Make room there (a quota is used up), or write elsewhere.",
    errno.EFBIG: "Raise the limit for the size of files (ulimit -f), or write to another file system.",
    errno.EROFS: "Write elsewhere.",
    errno.EACCES: "Change its permissions, or give another path.",
    errno.EPERM: "Change its permissions, or give another path.",
    errno.ENOENT: "Was it removed meanwhile?",
    errno.ESTALE: "Was it removed meanwhile? Mount the file system again if not.",
    errno.ENAMETOOLONG: "Give a shorter path.",
    errno.EMFILE: "Raise the limit for open files (ulimit -n).",
    errno.ENFILE: "Too many files are open on this machine.",
    errno.EIO: "Check the disk.",
    errno.ENOTDIR: "Give another path.",
    errno.EISDIR: "Give the path of a file.",
    errno.ELOOP: "Replace the link that points to itself.",
}
_NUMBER = re.compile(r"os error (\d+)|code: (\d+)")
_TORCH = ("PytorchStreamWriter failed", "inline_container", "file write failed")


class FileError(VlkitError, OSError):
    """A file or folder that cannot be read or written.

    Args:
        message: names it, with the reason and what to do.
        number: as in :mod:`errno`; None: unknown.
        path: of the file.
    """

    def __init__(self, message: str, number: int | None = None, path: str | Path | None = None):
        super().__init__(message)
        self.errno, self.filename = number, None if path is None else str(path)

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self):  # crosses process borders
        return (FileError, (str(self), self.errno, self.filename))


def describe(error: OSError) -> str:
    """Return the message for an error of the operating system."""
    if isinstance(error, VlkitError):
        return str(error)
    names = [_shown(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    reason = error.strerror or str(error) or type(error).__name__
    return " ".join([f"{' -> '.join(names) or 'a file or stream'}: {reason}.", advice(error.errno)]).rstrip()


def _shown(path: str) -> str:
    """Return a path for a message, the middle left out where it is very long."""
    return path if len(path) <= 300 else f"{path[:100]}...{path[-100:]} ({len(path):,} characters)"


def advice(number: int | None) -> str:
    """Return what to do about an error number; an empty string for those that say it themselves."""
    return _ADVICE.get(number or 0, "")


def number_of(error: BaseException) -> int | None:
    """Return the error number of an error that a file caused, also where a library reports it as text; else None."""
    if isinstance(error, OSError):
        network = isinstance(error, (ConnectionError, TimeoutError, InterruptedError, ChildProcessError))
        return None if network else error.errno
    text = str(error)
    if isinstance(error, RuntimeError) and any(each in text for each in _TORCH):
        cause = error.__cause__ or error.__context__
        return (number_of(cause) if cause is not None else None) or errno.EIO
    if "StorageFull" in text:
        return errno.ENOSPC
    found = _NUMBER.search(text) if type(error).__name__ == "SafetensorError" else None
    return int(found[1] or found[2]) if found else None


@contextlib.contextmanager
def named(path: str | Path, done: str = "written") -> Iterator[None]:
    """While entered, an error of a file is raised as one that says that ``path`` cannot be ``done``.

    Raises:
        FileError: instead of it.
    """
    try:
        yield
    except VlkitError:
        raise
    except OSError as error:
        if number_of(error) is None:
            raise
        raise cannot(path, error, done) from error


def cannot(path: str | Path, error: BaseException, done: str = "written") -> FileError:
    """Return the error for a path at which something cannot be done, with its reason."""
    number = number_of(error)
    reason = getattr(error, "strerror", None) or (os.strerror(number) if number else str(error))
    about = getattr(error, "filename", None)
    what = f"{path}: cannot be {done}{' there' if done == 'written' else ''} ({reason}"
    if isinstance(about, str) and Path(about) != Path(path) and Path(about) in Path(path).absolute().parents:
        what += f": {about}"
    return FileError(f"{what}). {advice(number) or 'Choose another.'}", number, path)


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error says that the disk is full; safetensors reports it as text only."""
    return number_of(error) in _FULL


def full_disk(path: Path, written: int, need: int | None = None) -> FileError:
    """Return the error for a full disk.

    Args:
        path: what was to be written.
        written: bytes that fitted.
        need: bytes in all, if known.
    """
    wanted = f"{_megabytes(need)} are needed" if need else f"more than {_megabytes(written)} are needed"
    with contextlib.suppress(OSError, AttributeError):  # Windows has no statvfs
        usage, nodes = shutil.disk_usage(existing(path)), os.statvfs(existing(path))
        wanted += f", {_megabytes(usage.free)} are free"
        if nodes.f_files and not nodes.f_favail:
            wanted = "the file system has no room for another file (its inodes are used up)"
    return FileError(
        f"{path}: no space left on the disk: {wanted}. Nothing was lost: what was there before is unchanged. "
        f"Make room, or choose another folder, and run again.",
        errno.ENOSPC,
        path,
    )


def existing(path: Path) -> Path:
    """Return the nearest folder (or file) above ``path`` that exists, or ``path`` itself."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def size_of(path: Path) -> int:
    """Return the bytes in a file, or in the files below a folder; 0 where it is gone."""
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
