"""Storage backends: local directory, fsspec URL, and iopath handlers for other URLs."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vlkit.errors import VlkitError, did_you_mean
from vlkit.io.fetch import path_manager
from vlkit.io.files import atomic_write, sync, sync_folder

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Store(Protocol):
    """Operations of a storage backend; names are checked already."""

    def open(self, name: str) -> IO[bytes]: ...
    def exists(self, name: str) -> bool: ...
    def names(self, folder: str) -> list[str]: ...
    def put(self, name: str, local: Path) -> None: ...
    def create(self, name: str, local: Path) -> bool: ...
    def remove(self, name: str) -> None: ...
    def modified(self, name: str) -> float | None: ...


def store_of(url: str) -> Store:
    """Return the backend of a path or URL.

    Raises:
        VlkitError: nobody knows its kind, or the package for it is not installed.
    """
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme in ("", "file", "local"):
        return LocalStore(Path(os.path.expanduser(url2pathname(urlsplit(url).path) if scheme else url)))
    import fsspec

    known = {*fsspec.available_protocols(), *fsspec.registry}
    if scheme in known:
        return FsspecStore(*_file_system(url, scheme))
    # iopath treats a URL that no handler takes as a path, so its list has to be asked.
    if any(url.startswith(prefix) for prefix in path_manager()._path_handlers):
        return IopathStore(url)
    raise VlkitError(
        f"{url}: nothing here can read or write {scheme}://.{did_you_mean(scheme, known)} "
        f"Give a path, s3://, gs:// or another URL of fsspec, or register an iopath handler with "
        f"vlkit.io.fetch.path_manager()."
    )


def _file_system(url: str, scheme: str) -> tuple[Any, str]:
    import fsspec
    from fsspec.registry import known_implementations

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = known_implementations[scheme]["class"].partition(".")[0]
        how = f"pip install {package}" if package != "fsspec" else str(error)
        raise VlkitError(f"{url}: {scheme}:// needs a package that is not installed: {how}") from error
    except Exception as error:  # of a library of a storage it can be anything
        raise VlkitError(f"{url}: cannot be opened ({type(error).__name__}: {error}).") from error


class LocalStore:
    """A folder of this machine, or one that is mounted on it.

    Attributes:
        folder: it need not exist yet.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def open(self, name: str) -> IO[bytes]:
        return open(self.folder / name, "rb")

    def exists(self, name: str) -> bool:
        return (self.folder / name).exists()

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.folder / folder) as entries:
                return [entry.name for entry in entries if entry.is_file()]
        except FileNotFoundError:
            return []

    def put(self, name: str, local: Path) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(local)
        try:
            os.replace(local, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with open(local, "rb") as source, atomic_write(target) as file:
                shutil.copyfileobj(source, file, 1 << 20)
        sync_folder(target.parent)

    def create(self, name: str, local: Path) -> bool:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            try:
                os.link(local, target)  # unlike O_EXCL, with all its content at once
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                with open(target, "xb") as file:
                    file.write(local.read_bytes())
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def modified(self, name: str) -> float | None:
        return (self.folder / name).stat().st_mtime


class FsspecStore:
    """A folder of an fsspec file system.

    Args:
        fs: the file system.
        folder: path in it.
    """

    def __init__(self, fs: Any, folder: str):
        from fsspec.spec import AbstractFileSystem

        self.fs, self.folder = fs, folder.rstrip("/")
        self._renames = type(fs).mv is not AbstractFileSystem.mv  # SFTP, HDFS...: there an upload appears bit by bit

    def open(self, name: str) -> IO[bytes]:
        return self.fs.open(self._path(name), "rb")

    def exists(self, name: str) -> bool:
        self._forget()
        return bool(self.fs.exists(self._path(name)))

    def names(self, folder: str) -> list[str]:
        self._forget()
        try:
            found = self.fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        names = [str(each["name"]).rstrip("/").rpartition("/")[2] for each in found if each["type"] == "file"]
        return [name for name in names if name]

    def put(self, name: str, local: Path) -> None:
        target = self._path(name)
        parent, _, last = target.rpartition("/")
        with contextlib.suppress(FileExistsError):
            self.fs.makedirs(parent, exist_ok=True)
        if not self._renames:
            self.fs.put_file(str(local), target)
            return
        temp = f"{parent}/.{last}.{local.name}.tmp"
        self.fs.put_file(str(local), temp)
        try:
            self.fs.mv(temp, target)
        except OSError:  # some rename only to what is not there
            self.fs.rm_file(target)
            self.fs.mv(temp, target)

    def create(self, name: str, local: Path) -> bool:
        if self.exists(name):
            return False
        self.put(name, local)
        return True

    def remove(self, name: str) -> None:
        self.fs.rm_file(self._path(name))
        self._forget()

    def modified(self, name: str) -> float | None:
        self._forget()
        try:
            return float(self.fs.modified(self._path(name)).timestamp())
        except (NotImplementedError, AttributeError):
            return None

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _forget(self) -> None:
        """Forget cached listings, because other workers write too."""
        self.fs.invalidate_cache()


class IopathStore:
    """A folder behind a URL for which an iopath handler is registered.

    Args:
        url: the folder.
    """

    def __init__(self, url: str):
        self.url, self.manager = url.rstrip("/"), path_manager()

    def open(self, name: str) -> IO[bytes]:
        return self.manager.open(self._path(name), "rb")

    def exists(self, name: str) -> bool:
        return bool(self.manager.exists(self._path(name)))

    def names(self, folder: str) -> list[str]:
        if not self.manager.isdir(self._path(folder)):
            return []
        names = [str(each).rstrip("/").rpartition("/")[2] for each in self.manager.ls(self._path(folder))]
        return [name for name in names if name and self.manager.isfile(self._path(f"{folder}/{name}"))]

    def put(self, name: str, local: Path) -> None:
        target = self._path(name)
        self.manager.mkdirs(target.rpartition("/")[0])
        with open(local, "rb") as source, self.manager.open(target, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def create(self, name: str, local: Path) -> bool:
        if self.exists(name):
            return False
        self.put(name, local)
        return True

    def remove(self, name: str) -> None:
        if self.exists(name):
            self.manager.rm(self._path(name))

    def modified(self, name: str) -> float | None:
        return None

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}"
