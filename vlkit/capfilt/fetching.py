"""Inputs that lie elsewhere, as files of this machine."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vlkit.capfilt.stores import Store, store_of
from vlkit.errors import VlkitError, redacted
from vlkit.io.files import full_disk, is_full_disk
from vlkit.io.files import local_path as package_path

logger = logging.getLogger(__name__)
T = TypeVar("T")
TRIES = 3
PAUSE = 1.0
"""Seconds before the second try; twice that before the third."""
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_LASTING_NUMBERS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


def local_path(path: str) -> Path | None:
    """The file, if ``path`` means one of this machine."""
    scheme = urlsplit(path).scheme if "://" in path else ""
    if scheme == "package":
        return package_path(path)
    if scheme in ("file", "local"):
        return Path(url2pathname(urlsplit(path).path))
    return None if scheme else Path(os.path.expanduser(path))


def beside(url: str) -> tuple[Store, str]:
    """Where a file lies that is not of this machine, and its name there.

    Raises:
        VlkitError: there is no such kind of address, or the package for it is not installed.
    """
    folder, _, name = url.rpartition("/")
    return store_of(folder), name


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """The file at ``path``: itself if it is of this machine, else a copy that is removed afterwards.

    Raises:
        OSError: it cannot be read, several times.
        VlkitError: no such kind of address; or this machine's disk is full.
    """
    here = local_path(path)
    if here is not None:
        yield here
        return
    with tempfile.TemporaryDirectory(prefix="vlkit-") as folder:
        yield _download(path, Path(folder, "input"))


@functools.lru_cache(maxsize=2)
def kept_copy(path: str) -> KeptCopy:
    """Like :func:`local_copy`, but it stays until other files or the end of the process: for a list, which is read
    once for every shard that is cut from it."""
    return KeptCopy(path)


class KeptCopy:
    """A file of this machine, or the copy of one of elsewhere, which goes when this object does.

    Args:
        path: of it, or its address.
    """

    def __init__(self, path: str):
        here = local_path(path)
        self._folder = None if here else tempfile.TemporaryDirectory(prefix="vlkit-")
        self.file = here or _download(path, Path(self._folder.name, "input"))  # type: ignore[union-attr]


def tried(action: Callable[[], T], what: str, errors: type[Exception] = OSError) -> T:
    """What ``action`` gives; it is done again after errors that may pass.

    Args:
        action: done up to three times.
        what: for the log.
        errors: those that may pass; a library of a storage raises any.

    Raises:
        OSError: it failed each time, or in a way that will not pass.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except (*_LASTING, VlkitError):
            raise
        except errors as error:
            lasts = is_full_disk(error) or getattr(error, "errno", None) in _LASTING_NUMBERS
            if lasts or attempt == TRIES:
                raise error if isinstance(error, OSError) else OSError(type(error).__name__) from error
            logger.warning("%s: %s; trying again", redacted(what), redacted(str(error), what))
            time.sleep(PAUSE * 2 ** (attempt - 1))
    raise RuntimeError("unreachable")


def reason(error: OSError) -> str:
    """Why, in words that are the same on every machine: no path of it, no number of a request."""
    return error.strerror or type(error.__cause__ or error).__name__


def _download(url: str, target: Path) -> Path:
    store, name = beside(url)

    def copy() -> Path:
        with store.open(name) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        return target

    try:
        return tried(copy, url, Exception)
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(target, target.stat().st_size if target.exists() else 0) from error
        raise
