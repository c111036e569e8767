"""Folders that something is to be written to."""

from __future__ import annotations

import os
from pathlib import Path


def why_unwritable(folder: Path) -> str | None:
    """Why ``folder``, which need not be there yet, cannot be written; None: it can."""
    path = folder.absolute()
    existing = next(each for each in (path, *path.parents) if each.exists())
    if not existing.is_dir():
        return f"{existing} is a file"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} cannot be written"
