"""Checksums of files."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

_BLOCK = 1 << 20
_SETTLED = 2.0  # seconds after which another write gives a file another time stamp on every file system
_known: dict[tuple[int, ...], str] = {}


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
