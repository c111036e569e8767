"""Finds the image files of a dataset."""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from vlkit.errors import DataError, VlkitError, did_you_mean
from vlkit.io.files import local_path

_NEAR = 500  # names compared with a missing one: comparing a hundred thousand takes seconds


def evenly(count: int, limit: int) -> list[int]:
    """At most ``limit`` of the indices below ``count``, evenly spread, the first one among them."""
    number = min(count, limit)
    return [i * count // number for i in range(number)]


def missing_images(paths: Sequence[str], advice: str = "") -> list[str]:
    """How many of ``paths`` do not exist, in at most one sentence.

    Args:
        advice: what to say after it.
    """
    absent = [path for path in paths if not os.path.lexists(path)]
    if not absent:
        return []
    few = f"{', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}"
    hint = nearest(absent[0])
    return [f"{len(absent)} of the {len(paths)} image files checked do not exist: {few}. {hint} {advice}".rstrip()]


def nearest(path: str) -> str:
    """Where the way to ``path`` ends, and what is there with a similar name; one or two sentences."""
    folder, name = os.path.split(path)
    while folder and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(os.listdir(folder or "."), key=str.lower)
    place = bisect_left(names, name.lower(), key=str.lower)
    hint = did_you_mean(name, names[max(0, place - _NEAR) : place + _NEAR])
    return f"The folder {folder or '.'} holds no {name!r}.{hint}"


def media_root(files: list[Path], given: str | None, key: str = "image_root") -> tuple[str, list[str]]:
    """The folder that all names of images start from, and what to put in front of the names in each file.

    Args:
        files: annotation files.
        given: the folder, which may be ``package://name/path``; None: each file's names start from its own folder.
        key: what ``given`` is called in a configuration.

    Raises:
        DataError: ``given`` is no folder.
    """
    if given is not None:
        return local_folder(given, key), [""] * len(files)
    folders = [str(file.parent) for file in files]
    if len(set(folders)) == 1:
        return folders[0], [""] * len(files)
    folders = [os.path.abspath(folder) for folder in folders]
    root = os.path.commonpath(folders)
    return root, ["" if folder == root else os.path.relpath(folder, root) for folder in folders]


def local_folder(given: str, key: str) -> str:
    """The folder that ``given`` names: a path, or ``package://name/path``.

    Args:
        given: as configured.
        key: what it is called in a configuration.

    Raises:
        DataError: it is no folder.
    """
    try:
        root = str(local_path(given))
    except VlkitError as error:
        raise DataError(f"{key}: {error}") from error
    if not os.path.isdir(root):
        raise DataError(f"{key}: {root} is not a folder. {nearest(root)}")
    return root
