"""Which names from an archive may be used, and how they and those of shards are written."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from vlkit.datasets.shard_files import escaped

LONGEST_PART, LONGEST = 240, 1000  # bytes; file systems take 255 in a part, and a suffix is still to come
_SHOWN = 120
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def fault(name: str) -> str:
    """Why files must not be called ``name``, or ""."""
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "an absolute path"
    parts = re.split(r"[/\\]", name)
    if ".." in parts:
        return "leads out of its folder"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
        return "holds control characters"
    if len(name.encode()) > LONGEST or any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"longer than {LONGEST_PART} bytes"
    return "" if parts[-1] else "empty"


def shown(name: str) -> str:
    """Any name so that it can be printed, different ones differently."""
    text = "".join(c if c.isprintable() else f"%{ord(c):02X}" for c in escaped(name))
    if len(text) <= _SHOWN:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{text[:_SHOWN]}...{digest}"


def shard_names(stems: list[str]) -> list[str]:
    """Safe and unique names of shards: ``stems`` where these are, else with their number in front."""
    safe = [re.sub(r"[^\w.-]", "_", stem, flags=re.ASCII).lstrip(".-")[:100] or "shard" for stem in stems]
    if len({name.casefold() for name in safe}) == len(safe):
        return safe
    width = max(5, len(str(len(safe))))
    return [f"{number:0{width}d}-{name}" for number, name in enumerate(safe)]
