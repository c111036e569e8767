"""Image and video files of datasets: find them, and decode a few or all of them before training."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlkit.datasets.faults import listed
from vlkit.errors import BadSample, DataError, VlkitError, did_you_mean
from vlkit.io.fetch import local_path
from vlkit.processors.encoded import MAX_PIXELS
from vlkit.processors.open_image import open_image

_NEAR = 500  # names compared with a missing one: comparing a hundred thousand takes seconds


def evenly(count: int, limit: int) -> list[int]:
    """Return at most ``limit`` of the indices below ``count``, evenly spread, starting with 0."""
    number = min(count, limit)
    return [i * count // number for i in range(number)]


def missing_files(paths: Sequence[str], exists: Callable[[str], bool], noun: str, advice: str) -> list[str]:
    """Return how many of ``paths`` do not exist, in at most one sentence.

    Args:
        exists: whether a path exists.
        noun: "image files" or "videos".
        advice: a sentence to append.
    """
    absent = [path for path in paths if not exists(path)]
    if not absent:
        return []
    what = f"{len(absent)} of the {len(paths)} {noun} checked do not exist: {listed(absent)}."
    return [f"{what} {nearest(absent[0])} {advice}"]


def nearest(path: str) -> str:
    """Return the last existing folder of ``path`` and similar names in it; one or two sentences."""
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
    """Return the folder that the names of images are relative to, and the prefix of the names in each file.

    Args:
        files: annotation files.
        given: the folder, which may be ``package://name/path``; None: names are relative to the folder of their file.
        key: name of this argument in a configuration.

    Raises:
        DataError: ``given`` is not a folder.
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
    """Resolve a folder: a path, or ``package://name/path``.

    Args:
        given: as configured.
        key: name of this argument in a configuration.

    Raises:
        DataError: it is not a folder.
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
    """The images or videos of a dataset.

    Args:
        noun: "image" or "video".
        count: number of different ones.
        decode: decodes one; returns False if its file does not exist (other checks count these), raises BadSample if it
            cannot be used.
        few: number to decode unless all are requested.
    """

    noun: str
    count: int
    decode: Callable[[int], bool]
    few: int = FEW_IMAGES


@dataclass(frozen=True)
class MediaCheck:
    """Result of decoding.

    Args:
        noun: "image" or "video".
        decoded: number of decoded ones, including failures.
        count: number of all.
        problems: a sentence for each one that cannot be used.
    """

    noun: str
    decoded: int
    count: int
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return ``decoded 16 of 113,287 images``."""
        return f"decoded {self.decoded:,} of {self.count:,} {self.noun}{'s' * (self.count != 1)}"


def image_media(paths: Sequence[str], processor: Any) -> Media:
    """Return the media of a dataset of image files.

    Args:
        paths: without duplicates.
        processor: image processor that will read them, which may limit their pixels.
    """
    limit = pixel_limit(processor)

    def decode(index: int) -> bool:
        if not os.path.lexists(paths[index]):
            return False
        open_image(paths[index], limit)
        return True

    return Media("image", len(paths), decode)


def pixel_limit(processor: Any) -> int:
    """Return the largest number of pixels that an image processor reads."""
    limit = getattr(processor, "max_pixels", MAX_PIXELS)
    return limit if isinstance(limit, int) else MAX_PIXELS


@contextlib.contextmanager
def sample_name(name: str) -> Iterator[None]:
    """Re-raise a BadSample under the name of its sample: decoders may only know the bytes."""
    try:
        yield
    except BadSample as error:
        raise BadSample(name, error.reason) from error


def check_media(media: Media, every: bool = False) -> MediaCheck:
    """Decode all media, or ``media.few``, evenly spread, in several threads. Progress is logged."""
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


def _in_threads(media: Media, indices: list[int]) -> Iterator[list[tuple[int, bool, str]]]:
    """Yield lists of index, whether the file exists, and the reason why it cannot be used."""
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    if len(chunks) < 2:
        yield from (_decode(media, chunk) for chunk in chunks)
        return
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        yield from pool.map(lambda chunk: _decode(media, chunk), chunks)


def _decode(media: Media, indices: list[int]) -> list[tuple[int, bool, str]]:
    found = []
    for index in indices:
        try:
            found.append((index, media.decode(index), ""))
        except BadSample as error:
            reason = f"the {media.noun} {error.source} cannot be used: {error.reason.rstrip('.')}"
            found.append((index, True, f"{reason}. Replace it or delete its rows."))
    return found
