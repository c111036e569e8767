"""Files: writing that never leaves half a file, checksums, and downloads that are checked and resumed."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from vlkit.errors import VlkitError, did_you_mean
from vlkit.io.addresses import names_of, split_address
from vlkit.io.checksums import digest as digest
from vlkit.io.checksums import sha256 as sha256
from vlkit.io.disk_errors import cannot, full_disk, is_full_disk, number_of, size_of

logger = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where downloads go: ``$VLKIT_CACHE``, else ``~/.cache/vlkit``."""
    return Path(os.environ.get("VLKIT_CACHE") or "~/.cache/vlkit").expanduser()


def offline() -> bool:
    """Whether ``VLKIT_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids downloads."""
    values = (os.environ.get(name, "") for name in ("VLKIT_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() not in ("", "0", "false", "no", "off") for value in values)


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
    """An empty folder to fill, which becomes ``path`` only when the block ends without an error.

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


def fetch(url_or_path: str | Path, sha256: str | None = None, md5: str | None = None) -> Path:
    """A local file for a path or URL: the file itself, else a copy in a cache, else a download into ours.

    Weights that torch.hub or the Hugging Face hub have already downloaded are used where they are. The SHA-256 of a
    cached file is written down at its first use (in our cache, ``<file>.sha256``) and compared at each later one, also
    when the caller knows no checksum. Several processes may ask at once; one downloads.

    Args:
        url_or_path: a path, ``file://``, ``http(s)://``, ``hf://owner/name`` (the weights of that repository of the
            Hugging Face hub), ``package://name/path`` (a file that an installed package brings along), or what a
            handler of :func:`path_manager` takes.
        sha256, md5: expected checksums in hexadecimal.

    Raises:
        VlkitError: no such file, no connection (the message says which file to put where), or a wrong
            checksum (a cached file is kept aside as ``<file>.corrupt``).
    """
    text = os.fspath(url_or_path)
    expected = {name: value.lower() for name, value in (("sha256", sha256), ("md5", md5)) if value}
    scheme = split_address(text).scheme if "://" in text or text.startswith("file:") else ""
    if scheme == "file":
        text = _in_file_address(text)
    if scheme in ("http", "https"):
        from vlkit.io.download import fetch_http

        text = re.sub(r"\s", lambda space: quote(space[0]), text)
        return fetch_http(text, cached_path(text), expected)
    if scheme == "hf":
        from vlkit.io.hub_caches import fetch_hub

        return fetch_hub(text, expected)
    path = Path(os.path.expanduser(text))
    if scheme == "package":
        path = _in_package(text)
    elif "://" in text and scheme != "file":
        path = _from_handler(text)
    if not path.is_file():
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        if path.exists() and not path.is_dir():
            what = "is a pipe or a device, which can be read only once; write it to a file"
        raise VlkitError(f"{path}: {what}.{did_you_mean(path.name, siblings)}")
    problem = mismatch(path, expected)
    if problem:
        raise VlkitError(f"{path}: {problem}. Is it the right file, and complete?")
    return path


def cached_path(url: str) -> Path:
    """Where the cache keeps ``url``, whether or not it is there. Its credentials have no part in the name."""
    return cache_dir().joinpath("downloads", *names_of(url))


def mismatch(path: Path, expected: dict[str, str]) -> str:
    """What differs between a file and its ``expected`` checksums (name of the algorithm to value), or ""."""
    for algorithm, value in expected.items():
        found = digest(path, algorithm)
        if found != value:
            return f"the {algorithm} is {found}, but {value} is expected"
    return ""


def check_first_use(path: Path, record: Path) -> str:
    """What differs between a file and the SHA-256 that ``record`` keeps of its first use, or ""."""
    first_use = record.read_text().split()[:1] if record.is_file() else []
    problem = mismatch(path, {"sha256": first_use[0]}) if first_use else ""
    return f"{problem} (as at its first use)" if problem else ""


def record_first_use(path: Path, record: Path) -> None:
    """Write the SHA-256 of a file to ``record`` unless one is there; in a cache that cannot be written, do nothing."""
    if not record.is_file():
        with contextlib.suppress(VlkitError, OSError), atomic_write(record, "w") as file:
            file.write(f"{digest(path, 'sha256')}  {path.name}\n")


_manager: Any = None


def path_manager() -> Any:
    """The path manager of iopath; with a handler registered there :func:`fetch` takes ``s3://`` too."""
    global _manager
    if _manager is None:
        from iopath.common.file_io import PathManager

        _manager = PathManager()
    return _manager


def local_path(path: str | Path) -> Path:
    """Where on this machine ``path`` is: a path with ``~``, ``file://``, or ``package://name/path`` in an installed
    package, which is found without being imported. It need not exist.

    Raises:
        VlkitError: no such package is installed, or the path leads out of it.
    """
    text = re.sub("^package:/(?=[^/])", "package://", os.fspath(path))  # which Path makes of an address
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "package":
        return _in_package(text)
    return Path(os.path.expanduser(_in_file_address(text) if scheme == "file" else text))


def _in_file_address(uri: str) -> str:
    """The path in a ``file://`` address."""
    parts = split_address(uri)
    if parts.netloc not in ("", "localhost"):
        raise VlkitError(f"{uri}: files of another host cannot be read. Write file:///<path>, or the path alone.")
    return url2pathname(parts.path)


def _in_package(uri: str) -> Path:
    """Where the file of an installed package is; the package is found, not imported."""
    package, _, inside = uri.partition("://")[2].partition("/")
    parts = [part for part in inside.split("/") if part not in ("", ".")]
    if ".." in parts or "\\" in inside or "\0" in inside:
        raise VlkitError(f"{uri}: the path leads out of the package. Write package://<package>/<path in it>.")
    try:
        found = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # of __main__
        found = None
    if found is None or not found.submodule_search_locations:
        hint = did_you_mean(package, [package.replace("-", "_")]) if "-" in package else ""
        raise VlkitError(
            f"{uri}: no installed package is named {package!r}.{hint} Write package://<package>/<path in it>."
        )
    paths = [Path(folder, *parts) for folder in found.submodule_search_locations]
    return next((path for path in paths if path.exists()), paths[0])


def _from_handler(uri: str) -> Path:
    if offline():
        raise VlkitError(f"{uri}: cannot be fetched offline. Give the path of a local copy instead.")
    local = path_manager().get_local_path(uri)
    if local == uri:  # no handler took it: iopath believes that it is a path
        raise VlkitError(
            f"{uri}: paths, file://, http://, https:// and hf:// can be read. Download the file and give its path, "
            f"or register an iopath handler with vlkit.io.files.path_manager()."
        )
    return Path(local)


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
