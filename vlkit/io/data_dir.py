"""The data folder: annotation files and images of the known datasets.

Configurations name what is in it as ``data://coco/images``. The cards of the datasets say where each file comes from;
a file that is missing is downloaded if its card has a URL, and otherwise the error says what to put where.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlkit.errors import DataError, VlkitError
from vlkit.io.cache import cache_dir, mismatch
from vlkit.io.download import fetch_http

SCHEME = "data://"


@dataclass(frozen=True)
class DataFile:
    """A file or folder of the data folder, as a dataset card describes it.

    Args:
        url: where it is published; None: the user makes or gets it.
        md5, sha256: of the file, when known.
        how: one or more sentences that say how to get it.
    """

    url: str | None = None
    md5: str | None = None
    sha256: str | None = None
    how: str = ""


def data_dir() -> Path:
    """Return the data folder: ``$VLKIT_DATA``, else ``data`` in the cache."""
    given = os.environ.get("VLKIT_DATA")
    return Path(given).expanduser() if given else cache_dir() / "data"


def localize(value: Any, known: Mapping[str, DataFile]) -> Any:
    """Replace every ``data://...`` in ``value``, at any depth, by a path on this machine.

    Args:
        value: configuration: mappings, lists, plain values.
        known: what is said about files and folders, by their path in the data folder. Those that are missing are
            downloaded.

    Raises:
        DataError: something is missing, or is not the file that its card means; all of it is reported at once.
    """
    problems: list[str] = []
    found = _localize(value, known, problems)
    if problems:
        problems.append("(The data folder is set by the environment variable VLKIT_DATA; single paths in the run.)")
        raise DataError(" ".join(dict.fromkeys(problems)))
    return found


def _localize(value: Any, known: Mapping[str, DataFile], problems: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _localize(each, known, problems) for key, each in value.items()}
    if isinstance(value, list):
        return [_localize(each, known, problems) for each in value]
    if not isinstance(value, str) or not value.startswith(SCHEME):
        return value
    parts = [part for part in value[len(SCHEME) :].split("/") if part not in ("", ".")]
    if ".." in parts or any("\\" in part or "\0" in part for part in parts):
        problems.append(f"{value}: the path leads out of the data folder. Write data://<path in it>.")
        return value
    path, file = data_dir().joinpath(*parts), known.get("/".join(parts))
    if file is not None:
        problems += _ensured(path, file)
    return str(path)


def _ensured(path: Path, file: DataFile) -> list[str]:
    """Check that ``path`` exists and is right; return the problems."""
    expected = {name: value for name, value in (("md5", file.md5), ("sha256", file.sha256)) if value}
    if path.exists():
        # A file of the user's stays where it is, whatever it holds; downloads are checked where they are made.
        problem = mismatch(path, expected) if path.is_file() else ""
        again = f" Delete it to have {file.url} downloaded again, or" if file.url else " If you mean it,"
        return [f"{path}: {problem}.{again} set 'path' in the run to a file of your own."] if problem else []
    if file.url is None:
        return [f"{path} does not exist. {file.how}"]
    try:
        fetch_http(file.url, path, expected)
    except VlkitError as error:
        return [str(error)]
    return []
