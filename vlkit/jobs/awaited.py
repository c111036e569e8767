"""Files that an earlier stage of a pipeline is still to make: nothing looks for them before the stage has run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Awaited:
    """Folders whose content is still to come.

    Args:
        folders: as configurations write them.
    """

    def __init__(self, folders: Sequence[str | Path] = ()):
        self.folders = [str(folder) for folder in folders]

    def __bool__(self) -> bool:
        return bool(self.folders)

    def holds(self, value: Any) -> bool:
        """Whether ``value``, or anything in it at any depth, is a path into one of the folders."""
        return any(mentions(value, folder) for folder in self.folders)


NOTHING = Awaited()
"""Everything that is named is there already."""


def mentions(value: Any, folder: str) -> bool:
    """Whether a text in ``value``, at any depth, names ``folder`` or something in it."""
    if isinstance(value, Mapping):
        return any(mentions(each, folder) for each in value.values())
    if isinstance(value, (list, tuple)):
        return any(mentions(each, folder) for each in value)
    return isinstance(value, str) and re.search(rf"{re.escape(folder)}(?![\w.-])", value) is not None
