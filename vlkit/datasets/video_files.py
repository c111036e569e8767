"""Finds the files of videos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from vlkit.datasets.image_files import nearest
from vlkit.datasets.media import FEW_VIDEOS, Media, pixel_limit
from vlkit.errors import BadSample
from vlkit.processors.open_image import open_image

SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov")


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


def missing_videos(root: str, names: Sequence[str]) -> list[str]:
    """How many of the videos do not exist, in at most one sentence."""
    absent = []
    for name in names:
        try:
            find_video(root, name)
        except BadSample:
            absent.append(os.path.join(root, name))
    if not absent:
        return []
    few = f"{', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}"
    return [
        f"{len(absent)} of the {len(names)} videos checked do not exist: {few}. {nearest(absent[0])} "
        f"Names start from video_root, which is {root}: set it, or correct the names."
    ]


def video_media(root: str, names: Sequence[str], frames: int, sampling: str, processor: Any) -> Media:
    """Videos in files and folders.

    Args:
        root: what ``names`` start from.
        names: each once.
        frames, sampling: that are decoded of each.
        processor: that will read the frames, and may have a limit of pixels.
    """
    limit = pixel_limit(processor)

    def decode(index: int) -> bool:
        from vlkit.processors.video import sample_frames

        try:
            path = find_video(root, names[index])
        except BadSample:
            return False
        for frame in dict.fromkeys(map(_identity, sample_frames(path, frames, sampling))):
            if isinstance(frame, str):  # a folder of images
                open_image(frame, limit)
        return True

    return Media("video", len(names), decode, FEW_VIDEOS)


def _identity(frame: Any) -> Any:
    return frame if isinstance(frame, str) else None
