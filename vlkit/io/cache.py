"""The cache directory, first-use checksums, and the caches of the Hugging Face hub and of torch.hub."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import hashlib
import importlib
import logging
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from vlkit.errors import VlkitError, redacted
from vlkit.io.files import atomic_write, digest

logger = logging.getLogger(__name__)
HUB = "hf://"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_NAME = re.compile(r"(?!\.+$)[\w.-]{1,96}")  # '.' and '..' would lead out of the cache
_PATIENCE = 3.0  # seconds
_WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")


def in_torch_hub(url: str, expected: dict[str, str], record: Path) -> Path | None:
    """Return the file that torch.hub (and so LAVIS, timm and the original BLIP) keeps for ``url``, or None.

    It stays as it is: its SHA-256 is written to ``record`` at the first use and compared later.

    Args:
        url: of weights.
        expected: algorithm to checksum; another file of that name is left alone.
        record: where the SHA-256 is kept.

    Raises:
        VlkitError: the file changed since its first use.
    """
    name = urlsplit(url).path.rpartition("/")[2]
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    file = Path(home).expanduser() / "hub" / "checkpoints" / name
    if not name.endswith(_WEIGHTS) or not file.is_file():
        return None
    if problem := mismatch(file, expected):
        logger.warning("%s is not used for %s: %s.", file, redacted(url), problem)
        return None
    return _unchanged(file, record)


def fetch_hub(uri: str, expected: dict[str, str]) -> Path:
    """Return the weights of a repository of the Hugging Face hub: a copy in our cache, or in the hub's, else a
    download.

    Args:
        uri: ``hf://owner/name``, or ``hf://owner/name@revision``.
        expected: algorithm to checksum; may be empty.

    Raises:
        VlkitError: no such repository, no connection (the message says which file to put where), or a file that is
            not what it was.
    """
    repository, at, revision = uri.removeprefix(HUB).partition("@")
    names = [*repository.split("/"), *(revision.split("/") if at else ())]
    if repository.count("/") != 1 or not all(_NAME.fullmatch(name) for name in names):
        raise VlkitError(f"{uri}: a repository of the hub is written hf://owner/name or hf://owner/name@revision.")
    folder = cache_dir().joinpath("downloads", "huggingface.co", *repository.split("/"), revision)
    for name in _HUB_FILES:
        if (folder / name).is_file():
            return _checked(folder / name, expected, folder / f"{name}.sha256")
    file = _cached(repository, revision or None) or _downloaded(uri, repository, revision or None, folder)
    # The parent's name is the commit: another commit may hold another file.
    return _checked(file, expected, folder / file.parent.name / f"{file.name}.sha256")


def _cached(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for name in _HUB_FILES:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found)
    return None


def _downloaded(uri: str, repository: str, revision: str | None, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason = "it is in no cache, and VLKIT_OFFLINE or HF_HUB_OFFLINE is set"
    error: Exception | None = None
    for name in _HUB_FILES if not offline() else ():
        try:
            return Path(_in_time(functools.partial(hf_hub_download, repository, name, revision=revision)))
        except LocalEntryNotFoundError as failure:  # an EntryNotFoundError too, but of the connection
            reason, error = "the hub cannot be reached", failure
            break
        except EntryNotFoundError as failure:
            reason, error = f"the repository has no {' and no '.join(_HUB_FILES)}", failure
        except Exception as failure:  # whatever the client and its HTTP library raise
            reason, error = str(failure).strip().partition("\n")[0] or type(failure).__name__, failure
            break
    address = f"https://huggingface.co/{repository}/blob/{revision or 'main'}/{_HUB_FILES[0]}"
    raise VlkitError(
        f"{uri}: {reason}. To do without: download {address} elsewhere and put it at {folder / _HUB_FILES[0]}."
    ) from error


def _in_time(download: Callable[[], str]) -> str:
    """Return the result of ``download``, or give up after a few seconds where the name of the hub cannot be resolved:
    its client would retry for half a minute.

    Raises:
        LocalEntryNotFoundError: there is no network.
        Exception: raised by ``download``.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    future: Future[str] = Future()

    def work() -> None:
        try:
            future.set_result(download())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, name="vlkit-hub", daemon=True).start()
    if not concurrent.futures.wait([future], _PATIENCE).done and not urllib.request.getproxies():
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
        except OSError as error:
            raise LocalEntryNotFoundError(str(error)) from error
    return future.result()


def _checked(file: Path, expected: dict[str, str], record: Path) -> Path:
    if problem := mismatch(file, expected):
        raise VlkitError(f"{file}: {problem}. Is it the right file, and complete?")
    return _unchanged(file, record)


def _unchanged(file: Path, record: Path) -> Path:
    if problem := check_first_use(file, record):
        raise VlkitError(
            f"{file}: {problem}. If the file may have changed, delete {record}; otherwise delete the file, and it is "
            f"downloaded again."
        )
    record_first_use(file, record)
    return file


@contextlib.contextmanager
def without_hub() -> Iterator[None]:
    """While entered, ``datasets`` and ``huggingface_hub`` open no connection if :func:`~vlkit.io.cache.offline` holds.

    They read the environment when they are imported, which may have been before: their settings are changed, too.
    """
    if not offline():
        yield
        return
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    with contextlib.ExitStack() as stack:
        for module in ("huggingface_hub.constants", "datasets.config"):
            with contextlib.suppress(ImportError):
                settings = vars(importlib.import_module(module))
                before = {name: settings[name] for name in names if name in settings}
                stack.callback(settings.update, before)
                settings.update(dict.fromkeys(before, True))
        for name in names:  # for processes that start meanwhile
            stack.callback(_restore, name, os.environ.get(name))
            os.environ[name] = "1"
        yield


def _restore(name: str, value: str | None) -> None:
    if value is None:
        del os.environ[name]
    else:
        os.environ[name] = value


def hub_cache() -> str:
    """Return the folder in which ``datasets`` keeps what it has prepared."""
    import datasets.config

    return str(datasets.config.HF_DATASETS_CACHE)


_LONGEST = 180  # bytes of a file name; suffixes are added to it
_SECRET = re.compile(
    "sign|^sig|sig$|token|key|secret|pass|auth|cred|code|session|policy|expire|date|jwt|^se$|^st$", re.IGNORECASE
)
"""Names of query parameters that grant access and change from one signed address of a file to the next."""


def cache_dir() -> Path:
    """Return the folder of downloads: ``$VLKIT_CACHE``, else ``~/.cache/vlkit``."""
    return Path(os.environ.get("VLKIT_CACHE") or "~/.cache/vlkit").expanduser()


def offline() -> bool:
    """Return whether ``VLKIT_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids downloads."""
    values = (os.environ.get(name, "") for name in ("VLKIT_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() not in ("", "0", "false", "no", "off") for value in values)


def cached_path(url: str) -> Path:
    """Return where the cache keeps ``url``, whether or not it is there. Its credentials have no part in the name."""
    return cache_dir().joinpath("downloads", *names_of(url))


def mismatch(path: Path, expected: dict[str, str]) -> str:
    """Return what differs between a file and its ``expected`` checksums (name of the algorithm to value), or ""."""
    for algorithm, value in expected.items():
        found = digest(path, algorithm)
        if found != value:
            return f"the {algorithm} is {found}, but {value} is expected"
    return ""


def check_first_use(path: Path, record: Path) -> str:
    """Return what differs between a file and the SHA-256 that ``record`` keeps of its first use, or ""."""
    first_use = record.read_text().split()[:1] if record.is_file() else []
    problem = mismatch(path, {"sha256": first_use[0]}) if first_use else ""
    return f"{problem} (as at its first use)" if problem else ""


def record_first_use(path: Path, record: Path) -> None:
    """Write the SHA-256 of a file to ``record`` unless one is there; in a cache that cannot be written, do nothing."""
    if not record.is_file():
        with contextlib.suppress(VlkitError, OSError), atomic_write(record, "w") as file:
            file.write(f"{digest(path, 'sha256')}  {path.name}\n")


def split_address(address: str) -> SplitResult:
    """Return the parts of an address.

    Raises:
        VlkitError: it is none.
    """
    try:
        return urlsplit(address)
    except ValueError as error:  # brackets without an IPv6 address
        raise VlkitError(f"{address}: this is no address: {redacted(str(error), address)}.") from error


def names_of(address: str) -> list[str]:
    """Return host and path of an address as names of folders and a file, none of which leads out of the folder above
    it.

    The query becomes a checksum at the end, without its credentials: a file is the same under the next signature.

    Raises:
        VlkitError: it is no address.
    """
    parts = split_address(redacted(address))
    names = [_name(part) for part in parts.path.split("/") if part not in ("", ".", "..")] or ["index"]
    query = split_address(address).query
    kept = "&".join(pair for pair in re.split("[&;]", query) if not _SECRET.search(pair.partition("=")[0]))
    if kept:
        names[-1] += "-" + hashlib.sha256(kept.encode()).hexdigest()[:12]
    host = re.sub(r"[^\w.-]", "_", parts.netloc.rpartition("@")[2]).strip(".") or "_"
    return [_name(host), *names]


def _name(part: str) -> str:
    """Return a part of an address as a file name: what is too long for one ends in a checksum instead."""
    if len(part.encode()) <= _LONGEST:
        return part
    return f"{part[:60]}-{hashlib.sha256(part.encode()).hexdigest()[:16]}"
