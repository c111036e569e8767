"""The cache of downloads: where it is, the names of files in it, and the checksums that files there must have."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from vlkit.errors import VlkitError, redacted
from vlkit.io.files import atomic_write, digest

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
