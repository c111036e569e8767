"""Finds the files of videos, and looks at them before anything is evaluated on them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vlkit.datasets.image_files import evenly, nearest
from vlkit.errors import BadSample

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov")
DECODED = 4


def find_video(root: str, name: str) -> str:
    """The file or the folder of frames that is called ``name`` in the folder ``root``: as it is written, with one of
    :data:`SUFFIXES` added, or with another one of them.

    Raises:
        BadSample: there is none.
    """
    path = os.path.join(root, name)
    stem, suffix = os.path.splitext(path)
    stems = [path, stem] if suffix.lower() in SUFFIXES else [path]
    for candidate in [path, *(each + end for each in stems for end in SUFFIXES), *stems[1:]]:
        if os.path.exists(candidate):
            return candidate
    raise BadSample(path, f"no such file, nor one that ends in {', '.join(SUFFIXES)}")


def video_problems(root: str, names: Sequence[str]) -> list[str]:
    """Which of the videos do not exist; which of 4 that do cannot be decoded. One entry each."""
    from vlkit.processors.video import sample_frames

    found: list[str] = []
    absent: list[str] = []
    for name in names:
        try:
            found.append(find_video(root, name))
        except BadSample:
            absent.append(os.path.join(root, name))
    problems = []
    if absent:
        few = f"{', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}"
        problems.append(
            f"{len(absent)} of the {len(names)} videos looked at do not exist: {few}. {nearest(absent[0])} "
            f"Names start from video_root, which is {root}: set it, or mend the names."
        )
    for i in evenly(len(found), DECODED):
        try:
            sample_frames(found[i], 1)
        except BadSample as error:
            problems.append(f"the video {error.source} cannot be used: {error.reason}. Replace it or delete its rows.")
    return problems
