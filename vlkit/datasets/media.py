"""Decodes the images or videos of a dataset before anything is trained on them: a few of them, or all."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlkit.errors import BadSample, DataError, VlkitError, did_you_mean
from vlkit.io.files import local_path
from vlkit.processors.encoded import MAX_PIXELS
from vlkit.processors.open_image import open_image

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


logger = logging.getLogger(__name__)
FEW_IMAGES, FEW_VIDEOS = 16, 4
_CHUNK = 16  # decoded by a thread at once
_THREADS = 4
_SECONDS = 5  # between lines about the progress


@dataclass(frozen=True)
class Media:
    """The images or videos that the samples of a dataset are made of.

    Args:
        noun: "image" or "video".
        count: how many there are, each counted once.
        decode: decodes one of them; False where its file does not exist, which other checks count; raises BadSample
            where it cannot be used.
        few: how many are decoded where not all are.
    """

    noun: str
    count: int
    decode: Callable[[int], bool]
    few: int = FEW_IMAGES


@dataclass(frozen=True)
class MediaCheck:
    """What decoding showed.

    Args:
        noun: "image" or "video".
        decoded: how many were decoded, those that failed included.
        count: how many there are.
        problems: a sentence for each that cannot be used.
    """

    noun: str
    decoded: int
    count: int
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """``decoded 16 of 113,287 images``."""
        return f"decoded {self.decoded:,} of {self.count:,} {self.noun}{'s' * (self.count != 1)}"


def image_media(paths: Sequence[str], processor: Any) -> Media:
    """Image files.

    Args:
        paths: each once.
        processor: the image processor that will read them, which may have a limit of pixels.
    """
    limit = pixel_limit(processor)

    def decode(index: int) -> bool:
        if not os.path.lexists(paths[index]):
            return False
        open_image(paths[index], limit)
        return True

    return Media("image", len(paths), decode)


def pixel_limit(processor: Any) -> int:
    """The largest image that an image processor reads."""
    limit = getattr(processor, "max_pixels", MAX_PIXELS)
    return limit if isinstance(limit, int) else MAX_PIXELS


def check_media(media: Media, every: bool = False) -> MediaCheck:
    """Decode all of them, or ``media.few``, evenly spread. Several threads decode; how far they are is logged."""
    number = media.count if every else min(media.count, media.few)
    indices = [i * media.count // number for i in range(number)]
    decoded, problems = 0, dict[int, str]()
    last = time.monotonic()
    for found in _in_threads(media, indices):
        decoded += sum(there for _, there, _ in found)
        problems |= {index: reason for index, _, reason in found if reason}
        if time.monotonic() - last > _SECONDS:
            last = time.monotonic()
            wrong = f", {len(problems):,} of them cannot be used" if problems else ""
            logger.info("%s%s", MediaCheck(media.noun, decoded, media.count).summary(), wrong)
    return MediaCheck(media.noun, decoded, media.count, [problems[index] for index in sorted(problems)])


def _in_threads(media: Media, indices: list[int]):
    """Index, whether it is there, and what is wrong with it; in lists, in any order."""
    chunks = iter([indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)])
    if len(indices) <= _CHUNK:
        yield from (_decode(media, chunk) for chunk in chunks)
        return
    threads = min(_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        pending: set[Future] = set()
        while True:
            while len(pending) < 2 * threads and (chunk := next(chunks, None)) is not None:
                pending.add(pool.submit(_decode, media, chunk))
            if not pending:
                return
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(media: Media, indices: list[int]) -> list[tuple[int, bool, str]]:
    found = []
    for index in indices:
        try:
            found.append((index, media.decode(index), ""))
        except BadSample as error:
            reason = f"the {media.noun} {error.source} cannot be used: {error.reason.rstrip('.')}"
            found.append((index, True, f"{reason}. Replace it or delete its rows."))
    return found
