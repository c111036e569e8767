"""Parts of addresses, and the names under which a cache keeps what is at them."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import SplitResult, urlsplit

from vlkit.errors import VlkitError, redacted

_LONGEST = 180  # bytes of a file name; suffixes are added to it
_SECRET = re.compile(
    "sign|^sig|sig$|token|key|secret|pass|auth|cred|code|session|policy|expire|date|jwt|^se$|^st$", re.IGNORECASE
)
"""Names of query parameters that grant access and change from one signed address of a file to the next."""


def split_address(address: str) -> SplitResult:
    """The parts of an address.

    Raises:
        VlkitError: it is none.
    """
    try:
        return urlsplit(address)
    except ValueError as error:  # brackets without an IPv6 address
        raise VlkitError(f"{address}: this is no address: {redacted(str(error), address)}.") from error


def names_of(address: str) -> list[str]:
    """Host and path of an address as names of folders and a file, none of which leads out of the folder above it.

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
    """A part of an address as a file name: what is too long for one ends in a checksum instead."""
    if len(part.encode()) <= _LONGEST:
        return part
    return f"{part[:60]}-{hashlib.sha256(part.encode()).hexdigest()[:16]}"
