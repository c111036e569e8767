"""Write the samples of a dataset as webdataset shards, which ``web_shards`` and ``vlkit capfilt`` read."""

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
from vlkit.io.json import finite_or_none, json_text, parse_json
from vlkit.processors.open_image import ImageSource, encoded_format, open_image, read_bytes

logger = logging.getLogger(__name__)
RECORD = "shards.json"
"""Record next to the shards: their data and the number of samples per shard."""
_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_NOT_FIELDS = ("image", "text_input", "sample_id")


def write_shards(dataset: VLDataset, folder: str | Path, samples_per_shard: int = 1000, seed: int = 0) -> list[Path]:
    """Write the samples of ``dataset`` as ``<folder>/00000.tar``, ``00001.tar``, ...

    Sample i is ``<i, 9 digits>.png`` (jpg, webp) and ``<i>.json`` with ``caption`` and every other field that is plain
    data (``image_id``, ``scene``, ...). Its caption is ``text_input``, or all ``references`` if that is one of them: of
    a dataset with several captions per image, split "val" or "test" gives each image once, with all of them. Samples
    that cannot be used are skipped and logged. Equal data give equal bytes. A shard appears when it is complete;
    existing shards are kept, so that the same call resumes.

    Args:
        dataset: one image per sample, built with ``image_processor=encoded_picture``.
        folder: created if missing.
        samples_per_shard: at least 1.
        seed: of random choices in a training set (one of an image's captions).

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
    """Return the number of samples in shards."""
    return sum(len(scan(shard).rows) for shard in shards)


def encoded_picture(source: ImageSource, rng: np.random.Generator | None = None) -> bytes:
    """Image processor that returns encoded images: files unchanged, pixels as PNG.

    Files of formats that shards do not hold become PNG, too.

    Raises:
        BadSample: it is not an image.
    """
    if isinstance(source, (bytes, str, os.PathLike)):
        data = read_bytes(source)
        if _extension(data):
            return data
    picture = io.BytesIO()
    open_image(source).save(picture, "PNG")
    return picture.getvalue()


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to an open tar, without owner and time."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _extension(data: bytes) -> str:
    """Return the extension of an encoded image, or "" if shards do not hold its format."""
    return _EXTENSIONS.get(encoded_format(data), "")


def _claim(folder: Path, facts: dict[str, Any]) -> None:
    """Record the content of the folder, or check the existing record."""
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
    """Yield names and contents of the files of sample ``index``; none if it cannot be used."""
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
        except (TypeError, ValueError):  # not plain data, such as a tensor
            continue
    return fields
