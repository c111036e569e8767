"""Writes the samples of a dataset as webdataset shards, which ``web_shards`` and ``vlkit capfilt`` read."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlkit.datasets.base import Sample, VLDataset
from vlkit.datasets.tar_index import scan
from vlkit.errors import BadSample, DataError
from vlkit.io.disk_errors import FileError, named
from vlkit.io.files import atomic_write
from vlkit.io.json_reader import parse_json
from vlkit.io.json_writer import finite_or_none, json_text
from vlkit.processors.open_image import ImageSource, encoded_format, open_image, read_bytes

logger = logging.getLogger(__name__)
RECORD = "shards.json"
"""Beside the shards: which data they hold, and how they are cut."""
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_NOT_FIELDS = ("image", "text_input", "sample_id")


def write_shards(dataset: VLDataset, folder: str | Path, samples_per_shard: int = 1000, seed: int = 0) -> list[Path]:
    """The samples of ``dataset`` as ``<folder>/00000.tar``, ``00001.tar``, ...

    Sample i is ``<i, 9 digits>.png`` (jpg, webp) and ``<i>.json`` with ``caption`` and every other field that is plain
    data (``image_id``, ``scene``, ...). Its caption is ``text_input``, or all ``references`` where that is one of them:
    of a dataset with several captions an image, split "val" or "test" gives an image once, with all of them.
    A sample that cannot be used is left out and logged. Equal data give equal bytes. A shard appears when it is
    complete; those that are there already are left as they are, so that the same call continues.

    Args:
        dataset: samples of one image, built with ``image_processor=encoded_picture``.
        folder: made if missing.
        samples_per_shard: at least 1.
        seed: of what a training set draws (which of an image's captions).

    Returns:
        The shards, in order.

    Raises:
        DataError: the folder holds shards of other data, or a sample has no image.
        VlkitError: the disk is full.
    """
    folder = Path(os.path.expanduser(folder))
    facts = {"data": dataset.fingerprint(), "samples": len(dataset), "per_shard": samples_per_shard, "seed": seed}
    _claim(folder, facts)
    shards = []
    for number, first in enumerate(range(0, len(dataset), samples_per_shard)):
        shard = folder / f"{number:05d}.tar"
        if not shard.exists():
            _write_shard(dataset, shard, range(first, min(first + samples_per_shard, len(dataset))), seed)
        shards.append(shard)
    return shards


def samples_in(shards: list[Path]) -> int:
    """How many samples shards hold."""
    return sum(len(scan(shard).rows) for shard in shards)


def encoded_picture(source: ImageSource, rng: np.random.Generator | None = None) -> bytes:
    """An image processor that gives the encoded picture: files as they are, pixels as PNG.

    Files of a format that shards do not hold become PNG too.

    Raises:
        BadSample: it is no picture.
    """
    if isinstance(source, (bytes, str, os.PathLike)):
        data = read_bytes(source)
        if _extension(data):
            return data
    picture = io.BytesIO()
    open_image(source).save(picture, "PNG")
    return picture.getvalue()


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to an open tar, with nothing about who wrote it or when."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _extension(data: bytes) -> str:
    """What the file is called after, or "" where shards do not hold its format."""
    return _EXTENSIONS.get(encoded_format(data), "")


def _claim(folder: Path, facts: dict[str, Any]) -> None:
    """Note what the folder holds, unless it is noted already."""
    record = folder / RECORD
    if not record.exists():
        if any(folder.glob("*.tar")):
            raise DataError(f"{folder}: holds shards that were not written here. Choose another folder.")
        with atomic_write(record, "w") as file:
            file.write(json_text(facts, indent=1) + "\n")
        return
    try:
        with named(record, "read"):
            found = parse_json(record.read_bytes(), str(record))
    except (FileError, DataError) as error:
        raise DataError(f"{error} Delete the folder, or choose another.") from error
    if not isinstance(found, dict):
        raise DataError(f"{record}: is no record of shards. Delete the folder, or choose another.")
    if found != facts:
        pairs = [(key, found.get(key), value) for key, value in facts.items()]
        changed = [f"{key} is {old!r}, not {new!r}" for key, old, new in pairs if old != new]
        raise DataError(f"{folder}: holds shards of other data: {'; '.join(changed)}. Delete it, or choose another.")


def _write_shard(dataset: VLDataset, shard: Path, indices: range, seed: int) -> None:
    with atomic_write(shard) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in indices:
            for name, data in _members(dataset, index, seed):
                add_member(tar, name, data)


def _members(dataset: VLDataset, index: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of sample ``index``; none where it cannot be used."""
    try:
        sample = dataset.sample(index, np.random.default_rng([seed, index]))
    except BadSample as error:
        logger.warning("left out: %s", error)
        return
    image = sample.get("image")
    extension = _extension(image) if isinstance(image, bytes) else ""
    if not isinstance(image, bytes) or not extension:
        raise DataError(
            f"{type(dataset).__name__}: sample {index} has no encoded image. Shards are made of datasets of images "
            "with texts, such as shapes, image_text, hf_dataset or web_shards."
        )
    key = f"{index:09d}"
    yield f"{key}.{extension}", image
    yield f"{key}.json", json_text(_fields(sample)).encode()


def _fields(sample: Sample) -> dict[str, Any]:
    text, references = sample.get("text_input", ""), sample.get("references")
    fields = {"caption": references if references and text in references else text}
    for key, value in sample.items():
        if key in _NOT_FIELDS or (key == "references" and fields["caption"] is value):
            continue
        try:
            fields[key] = json.loads(json.dumps(finite_or_none(value)))
        except (TypeError, ValueError):  # no plain data: a tensor, say
            continue
    return fields
