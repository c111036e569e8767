"""Plugin files as modules that every process can import by name.

A plugin file becomes the module ``vlkit.registry.plugin_files.<stem>_<hash of its path>``. Objects of its classes are
pickled under that name, so they travel between the processes of ``torchrun`` and to loader workers: a process that
unpickles one imports this module, which finds the file in the environment variable ``VLKIT_PLUGIN_FILES``. Child
processes inherit it.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

__path__: list[str] = []  # makes this module a package, whose submodules are found by the finder below
VARIABLE = "VLKIT_PLUGIN_FILES"


def module_name(file: Path) -> str:
    """Return the module of a plugin file: the same in every process and on every run.

    Args:
        file: resolved path.
    """
    digest = hashlib.sha256(str(file).encode(errors="surrogateescape")).hexdigest()[:16]
    return f"{__name__}.{re.sub(r'[^a-zA-Z0-9_]', '_', file.stem)}_{digest}"


def known_files() -> dict[str, Path]:
    """Map module names to files, for the plugins of this process and of those that started it."""
    try:
        files = json.loads(os.environ.get(VARIABLE) or "[]")
    except ValueError:  # set by someone else
        return {}
    listed = files if isinstance(files, list) else []
    return {module_name(Path(file)): Path(file) for file in listed if isinstance(file, str)}


def remember(file: Path) -> None:
    """Let this process and those that it starts find the module of ``file``."""
    files = [str(each) for each in known_files().values()]
    if str(file) not in files:
        os.environ[VARIABLE] = json.dumps([*files, str(file)])


def forget(file: Path) -> None:
    """Undo :func:`remember`."""
    os.environ[VARIABLE] = json.dumps([str(each) for each in known_files().values() if each != file])


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of plugin files."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}."):
            return None
        file = known_files().get(fullname)
        if file is None:
            raise ModuleNotFoundError(
                f"{fullname} is the module of a plugin file that this process does not know. Load the file first: "
                f"vlkit.registry.load_plugin(path).",
                name=fullname,
            )
        return importlib.util.spec_from_file_location(fullname, file)


if not any(type(finder).__name__ == "_Finder" and type(finder).__module__ == __name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
