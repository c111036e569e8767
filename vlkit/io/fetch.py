"""Local copies of what paths and addresses name."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from vlkit.errors import VlkitError, did_you_mean
from vlkit.io.cache import cached_path, fetch_hub, mismatch, offline, split_address
from vlkit.io.download import fetch_http

_manager: Any = None


def fetch(url_or_path: str | Path, sha256: str | None = None, md5: str | None = None) -> Path:
    """Return a local file for a path or URL: the file itself, else a copy in a cache, else a download into ours.

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
        text = re.sub(r"\s", lambda space: quote(space[0]), text)
        return fetch_http(text, cached_path(text), expected)
    if scheme == "hf":
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


def path_manager() -> Any:
    """Return the path manager of iopath; with a handler registered there :func:`fetch` takes ``s3://`` too."""
    global _manager
    if _manager is None:
        from iopath.common.file_io import PathManager

        _manager = PathManager()
    return _manager


def local_path(path: str | Path) -> Path:
    """Return where on this machine ``path`` is: a path with ``~``, ``file://``, or ``package://name/path`` in an
    installed package, which is found without being imported. It need not exist.

    Raises:
        VlkitError: no such package is installed, or the path leads out of it.
    """
    text = re.sub("^package:/(?=[^/])", "package://", os.fspath(path))  # which Path makes of an address
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "package":
        return _in_package(text)
    return Path(os.path.expanduser(_in_file_address(text) if scheme == "file" else text))


def _in_file_address(uri: str) -> str:
    """Return the path in a ``file://`` address."""
    parts = split_address(uri)
    if parts.netloc not in ("", "localhost"):
        raise VlkitError(f"{uri}: files of another host cannot be read. Write file:///<path>, or the path alone.")
    return url2pathname(parts.path)


def _in_package(uri: str) -> Path:
    """Return where the file of an installed package is; the package is found, not imported."""
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
            f"or register an iopath handler with vlkit.io.fetch.path_manager()."
        )
    return Path(local)
