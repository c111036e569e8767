"""Write files and folders atomically, and compute checksums of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vlkit.errors import VlkitError
from vlkit.io.disk_errors import cannot, full_disk, is_full_disk, number_of, size_of

_BLOCK = 1 << 20
_SETTLED = 2.0  # seconds after which another write gives a file another time stamp on every file system
_known: dict[tuple[int, ...], str] = {}


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb", need: int | None = None) -> Iterator[IO[Any]]:
    """Open a file that appears under ``path`` only when the block ends without an error.

    Args:
        path: missing folders are made.
        mode: "wb" or "w" (UTF-8).
        need: bytes that will be written, if known: then a full disk is found before the first of them.

    Raises:
        FileError: no space left, or the file cannot be written; what was there before is unchanged.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode {mode!r}: 'wb' or 'w' is needed")
    target = Path(os.path.realpath(path))  # through a link: replace what it points to, not the link
    temp = _beside(target, "tmp")
    with _explained(path, temp):
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(target, need)
        with open(temp, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
        sync(temp)  # by its name: a library may have put another file in its place
        os.replace(temp, target)
        sync_folder(target.parent)


@contextlib.contextmanager
def atomic_dir(path: str | Path, need: int | None = None) -> Iterator[Path]:
    """Open an empty folder to fill, which becomes ``path`` only when the block ends without an error.

    A folder that is there already is replaced as a whole. (It is moved aside first: a crash between the moves
    leaves it beside ``path``, named ``.<name>.<random>.old``.)

    Raises:
        FileError: as for :func:`atomic_write`.
    """
    target = Path(os.path.realpath(path))
    temp, old = _beside(target, "tmp"), _beside(target, "old")
    with _explained(path, temp):
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(target, need)
        temp.mkdir()
        yield temp
        for file in temp.rglob("*"):
            sync(file)
        sync(temp)
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(temp, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
        sync_folder(target.parent)
        _remove(old)


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{kind}")


@contextlib.contextmanager
def _explained(path: str | Path, temp: Path) -> Iterator[None]:
    """Remove ``temp`` after any error, and name ``path`` where it cannot be written."""
    try:
        yield
    except BaseException as error:
        written = size_of(temp)
        _remove(temp)
        if isinstance(error, VlkitError):
            raise
        if is_full_disk(error):
            raise full_disk(Path(path), written) from error
        about = getattr(error, "filename", None)
        own = about is None or Path(os.fsdecode(about)) in (temp, *temp.parents) or temp in Path(about).parents
        if number_of(error) is not None and own:
            raise cannot(path, error) from error
        raise


def _remove(path: Path) -> None:
    """Remove a file or folder as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _check_space(target: Path, need: int | None) -> None:
    if need is not None and shutil.disk_usage(target.parent).free < need:
        raise full_disk(target, 0, need)


def sync(path: Path) -> None:
    """Put a file or folder on the disk before anything that is written after it."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        sync(folder)


def digest(path: str | Path, algorithm: str) -> str:
    """Return the checksum of a file in hexadecimal.

    Nothing is kept but a small buffer, and the pages of the file stay in the cache of the system for the next reader.
    (A mapped file would be as fast, but one that is cut short meanwhile would kill the process.)

    Args:
        path: of the file.
        algorithm: as in hashlib ("sha256", "md5").
    """
    found = hashlib.new(algorithm)
    with open(path, "rb", buffering=0) as file, memoryview(bytearray(_BLOCK)) as buffer:
        while count := file.readinto(buffer):
            found.update(buffer[:count])
    return found.hexdigest()


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    A process computes it once for each state of a file: size, inode and times tell one state from another. The value of
    a file that was written a moment ago is not kept, since a further write may leave its times as they are.
    """
    stat = os.stat(path)
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if state not in _known:
        found = digest(path, "sha256")
        if time.time() - max(stat.st_mtime, stat.st_ctime) < _SETTLED:
            return found
        _known[state] = found
    return _known[state]


def why_unwritable(folder: Path) -> str | None:
    """Return why ``folder``, which need not be there yet, cannot be written; None: it can."""
    path = folder.absolute()
    existing = next(each for each in (path, *path.parents) if each.exists())
    if not existing.is_dir():
        return f"{existing} is a file"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} cannot be written"
