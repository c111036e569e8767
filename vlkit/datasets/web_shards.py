"""The dataset ``web_shards``: images with captions in webdataset shards, as img2dataset writes them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlkit.datasets.arguments import SPLITS, check_arguments
from vlkit.datasets.base import Sample, VLDataset
from vlkit.datasets.caption_table import draw_caption
from vlkit.datasets.image_files import evenly
from vlkit.datasets.shard_files import check_found, expand
from vlkit.datasets.tar_index import TarIndex, index_of
from vlkit.errors import BadSample, DataError
from vlkit.registry import DATASETS

logger = logging.getLogger(__name__)


@DATASETS.register("web_shards")
class WebShards(VLDataset):
    """Images with captions in webdataset shards: tar files with ``<key>.jpg`` (png, webp) and ``<key>.txt`` or
    ``<key>.json`` (``{"caption": text}``) for each sample; where there are both, the text file counts.

    Samples are read at their place in the tar, so the order is free: it is that of the run's seed, like that of any
    other dataset, and a run continues where it stopped. Where the samples of a shard are is read from its headers once
    and kept in the cache. In memory a sample takes about 45 bytes, which worker processes share.

    Every image is one sample. In split "train" its text is one of its captions, chosen by the generator where there
    are several; in the other splits all are under ``references``. ``image_id`` is ``<path of the shard>:<key>``,
    ``sample_id`` is ``<name of the shard>:<key>``.

    Args:
        path: a shard, a pattern (``cc3m/{00000..00331}.tar``, ``cc3m/*.tar``), a folder of ``*.tar`` (of an output of
            ``vlkit capfilt``: ``OUT/kept``), or several of these.
        split: "train", "val" or "test": how samples are made. It chooses no shards.
        image_processor: called with (encoded image as bytes, generator).
        text_processor: called with ``text_input`` (not with references).
        limit: use the first so many samples only.

    Raises:
        ConfigError: an argument is wrong, or there is no image processor.
        DataError: a shard cannot be read, or none has a sample.
    """

    plain_images = True

    def __init__(
        self,
        path: str | list[str],
        split: Literal["train", "val", "test"] = "train",
        image_processor: Any = None,
        text_processor: Any = None,
        limit: int | None = None,
    ):
        check_arguments("web_shards", {"split": (split, SPLITS)}, limit, image_processor)
        self.split, self.image_processor, self.text_processor = split, image_processor, text_processor
        self.shards = find_shards([path] if isinstance(path, (str, os.PathLike)) else list(path))
        indices = _indices(self.shards)
        self._problems = [f"{shard}: {text}." for shard, index in zip(self.shards, indices) for text in index.problems]
        for problem in self._problems:
            logger.warning("%s", problem)
        self._first = np.cumsum([0, *(len(index.rows) for index in indices)])  # sample that each shard starts with
        self._rows = np.concatenate([index.rows for index in indices])
        self._keys = np.concatenate([index.keys for index in indices])
        bytes_before = np.cumsum([0, *(len(index.keys) for index in indices)])
        ends = [index.ends + before for index, before in zip(indices, bytes_before)]
        self._ends = np.concatenate([[0], *ends]).astype(np.int64)
        if not len(self._rows):
            raise DataError(f"{self.shards[0]}{' and others' * (len(self.shards) > 1)}: no sample has an image.")
        self._size = len(self._rows) if limit is None else min(limit, len(self._rows))

    def __len__(self) -> int:
        return self._size

    @property
    def training(self) -> bool:
        """Whether captions are drawn."""
        return self.split == "train"

    def place(self, index: int) -> tuple[Path, str]:
        """Shard and key of sample ``index``."""
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        key = self._keys[self._ends[index] : self._ends[index + 1]].tobytes()
        return self.shards[shard], key.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        shard, key = self.place(index)
        row, name = self._rows[index], f"{shard.name}:{key}"
        captions, image = self._read(shard, row, name)
        sample = draw_caption(captions, name, self.training, self.text_processor, rng)
        sample["image_id"] = f"{shard}:{key}"
        try:
            sample["image"] = self.image_processor(image, rng)
        except BadSample as error:  # which knows the bytes only
            raise BadSample(name, error.reason) from error
        return sample

    def problems(self, limit: int = 20_000) -> list[str]:
        """What of the shards cannot be read, and samples without a caption."""
        found, looked_at = list(self._problems), evenly(len(self), limit)
        without = [index for index in looked_at if self._rows[index]["text"] < 0]
        if without:
            names = ", ".join(":".join((shard.name, key)) for shard, key in map(self.place, without[:3]))
            found.append(
                f"{len(without)} of the {len(looked_at)} samples looked at have no caption ({names}"
                f"{', ...' * (len(without) > 3)})."
            )
        return found

    def images(self) -> Iterator[tuple[str | int, str]]:
        for index in range(len(self)):
            shard, key = self.place(index)
            yield f"{shard}:{key}", f"{shard}/{key}"

    def fingerprint(self) -> str:
        """Split, samples, and a hash of the names, sizes and indices of the shards; their pixels are not read."""
        found = hashlib.sha256(self._rows.tobytes() + self._keys.tobytes())
        for shard in self.shards:
            found.update(f"{shard.name} {shard.stat().st_size}\n".encode())
        return f"{type(self).__name__}:{self.split}:{len(self)}:{found.hexdigest()}"

    def _read(self, shard: Path, row: np.void, name: str) -> tuple[list[str], bytes]:
        """Captions that are not empty, and the encoded image."""
        try:
            with open(shard, "rb") as file:
                file.seek(row["image"])
                image = file.read(row["image_size"])
                text = b""
                if row["text"] >= 0:
                    file.seek(row["text"])
                    text = file.read(row["text_size"])
        except OSError as error:
            raise BadSample(name, f"the shard cannot be read ({error.strerror})") from error
        return _captions(text, bool(row["json"]), name), image


def find_shards(paths: list[str]) -> list[Path]:
    """The files that paths, patterns and folders name, in order.

    Raises:
        DataError: there is none, or one is named twice.
    """
    shards = [shard for path in paths for shard in expand(os.fspath(path))]
    return check_found(paths, shards)


def _indices(shards: list[Path]) -> list[TarIndex]:
    """The index of each shard. Processes of one run start at different ones, so that they share the work."""
    world, rank = (int(os.environ.get(name) or default) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    first = len(shards) * rank // max(world, 1) % len(shards)
    found = {shard: index_of(shard) for shard in shards[first:] + shards[:first]}
    return [found[shard] for shard in shards]


def _captions(data: bytes, is_json: bool, name: str) -> list[str]:
    text = data.decode("utf-8", "replace")
    if not is_json:
        return [text.strip()] if text.strip() else []
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadSample(name, f"its JSON cannot be read ({error.msg})") from error
    given = fields.get("caption") if isinstance(fields, dict) else None
    texts = given if isinstance(given, list) else [given]
    return [
        each.encode("utf-8", "replace").decode().strip() for each in texts if isinstance(each, str) and each.strip()
    ]
