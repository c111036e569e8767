"""Base class of datasets whose samples are listed in annotation files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vlkit.datasets.annotation_files import find_file, short_names
from vlkit.datasets.base import VLDataset
from vlkit.datasets.media import Media, image_media, media_root, missing_files
from vlkit.datasets.texts import Source
from vlkit.io.files import sha256


class AnnotatedDataset(VLDataset):
    """Images (or videos) in files, named by the rows of annotation files.

    Args:
        paths: annotation files, checked by :func:`~vlkit.datasets.base.check_arguments`.
        root: folder that the names of images are relative to; None: the folder of the annotation file.
        split: "train", "val" or "test".
        image_processor: called with (path, generator).
        text_processor: called with texts for the model.
        others: further files that samples depend on.

    Raises:
        DataError: a file or folder does not exist.
    """

    root_key = "image_root"
    noun = "image files"

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        root: str | None,
        split: str,
        image_processor: Any,
        text_processor: Any,
        others: Sequence[str | None] = (),
    ):
        self.split, self.image_processor, self.text_processor = split, image_processor, text_processor
        self.files = [find_file(path, split) for path in paths]
        self.others = [None if path is None else find_file(path, split) for path in others]
        self.root, self._folders = media_root(self.files, root, self.root_key)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def training(self) -> bool:
        """Whether samples are for training."""
        return self.split == "train"

    def media(self) -> Media:
        return image_media(list(dict.fromkeys(path for _, path in self.images())), self.image_processor)

    def fingerprint(self) -> str:
        """Return split, number of samples, settings that change them, and the SHA-256 of each annotation file."""
        settings = "".join(f"{setting}:" for setting in self._settings())
        return f"{type(self).__name__}:{self.split}:{len(self)}:{settings}{self._hashes}"

    @cached_property
    def _hashes(self) -> str:
        return ",".join(sha256(file) for file in (*self.files, *self.others) if file is not None)

    def _settings(self) -> Sequence[Any]:
        return ()

    def _sources(self, rows: Sequence[Any]) -> list[Source]:
        """Return the rows of each file with its name and folder."""
        return list(map(Source, short_names(self.files), self._folders, rows))

    def _set_size(self, size: int, limit: int | None) -> None:
        self._size = size if limit is None else min(size, limit)

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def _exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def _file_problems(self, paths: Sequence[str], advice: str = "") -> list[str]:
        """Return sentences about files that do not exist or cannot be decoded."""
        advice = advice or f"Names start from {self.root_key}, which is {self.root}: set it, or correct the names."
        return missing_files(paths, self._exists, self.noun, advice) + self.media_problems()


def as_paths(path: Any) -> list[Any]:
    """Return one path or several as a list."""
    return [path] if isinstance(path, (str, Path, os.PathLike)) else list(path)
