"""Which shards an input consists of."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vlkit.capfilt.fetching import beside, kept_copy, local_path, reason
from vlkit.capfilt.folders import described, files_in, is_compressed
from vlkit.capfilt.inputs import InputOptions, InputShard
from vlkit.capfilt.lists import SUFFIXES, Damage, Place, Row, cut, read_list
from vlkit.capfilt.names import shard_names
from vlkit.capfilt.row_keys import Ambiguous, RowKeys
from vlkit.capfilt.row_reading import suffix_of
from vlkit.capfilt.stores import store_of
from vlkit.datasets.faults import lacks
from vlkit.datasets.media import media_root
from vlkit.datasets.shard_files import IMAGES, WILD, check_found, expand, expand_braces
from vlkit.errors import DataError, VlkitError

logger = logging.getLogger(__name__)

_FIRST_ROWS = 20  # rows of a list


class Inputs(NamedTuple):
    """What an input consists of.

    Args:
        shards: in its order.
        not_read: files and folders in the folders that were given, of which nothing is read.
    """

    shards: list[InputShard]
    not_read: list[str]


def find_inputs(options: InputOptions) -> list[InputShard]:
    """The shards of an input; see :func:`find_all`."""
    return find_all(options).shards


def find_all(options: InputOptions) -> Inputs:
    """The shards of an input, in its order: every tar, and every stretch of a list.

    They are named after their files, with a number in front where the names alone would be equal.

    Raises:
        DataError: a path means nothing, or something that is neither tar nor list; or a file is named twice; or
            ``image_root`` is no folder.
        VlkitError: nothing here reads an address of this kind.
    """
    if options.image_root is not None:
        _check_root(options.image_root)
    paths = options.path if isinstance(options.path, list) else [options.path]
    files, not_read = list[str](), list[str]()
    for path in paths:
        files += _files(path, not_read)
    if not files or len(set(files)) < len(files):
        raise DataError(f"path: {paths} names {'a file twice' if files else 'no file'}.")
    shards, stems = [], []
    for file in files:
        stem = os.path.basename(file)[: -len(suffix_of(file))]
        for shard in _shards(file, options):
            shards.append(shard)
            stems.append(stem if shard.kind == "tar" else f"{stem}-{shard.first // options.rows_per_shard:05d}")
    names = shard_names(stems)
    if not_read:
        logger.warning("%d files or folders of the input are not read: %s", len(not_read), described(not_read))
    named = zip(names, shards)
    return Inputs([replace(each, name=name) for name, each in named], not_read)


def _check_root(folder: str) -> None:
    here = local_path(folder)
    if here is None:
        store_of(folder)
    else:
        media_root([], str(here))


def _files(path: str, not_read: list[str]) -> list[str]:
    """The files that a path means; those of a folder that are not read are added to ``not_read``."""
    here = local_path(path)
    if here is None:
        files = _far_files(path, not_read)
    elif here.is_dir():
        try:
            files = _of_folder(str(here), not_read)
            check_found(path, [Path(file) for file in files])
        except OSError as error:
            raise DataError(f"{here}: cannot be read ({error.strerror}).") from error
    else:
        files = [str(file) for file in check_found(path, expand(str(here)))]
    for file in files:
        if suffix_of(file) not in (".tar", *SUFFIXES):
            raise DataError(f"{file}: neither a shard (.tar) nor a list ({', '.join(SUFFIXES)}).{_how_to_read(file)}")
    return files


def _of_folder(folder: str, not_read: list[str]) -> list[str]:
    found = files_in(folder, store_of(folder))
    not_read += found.not_read
    return [f"{folder.rstrip('/')}/{name}" for name in found.read]


def _how_to_read(file: str) -> str:
    if is_compressed(file):
        return " It is compressed: decompress it first, with gunzip or zstd -d for example."
    if suffix_of(file) in (".csv", ".tsv", ".txt"):
        return " Write its rows as JSON lines or Parquet."
    if suffix_of(file).lstrip(".") in IMAGES:
        return " It is an image: name the images in a list, or pack them with vlkit shards."
    return ""


def _far_files(path: str, not_read: list[str]) -> list[str]:
    """The files that an address means: a brace pattern, ``*`` in its last part, or a folder."""
    found: list[str] = []
    try:
        urls = expand_braces(path)
        for url in urls:
            folder, _, last = url.rpartition("/")
            if set(WILD) & set(last) and "?" not in last:
                names = sorted(name for name in store_of(folder).names("") if fnmatch.fnmatchcase(name, last))
                found += [f"{folder}/{name}" for name in names]
            elif suffix_of(url) in (".tar", *SUFFIXES):
                found.append(url)
            else:
                found += _of_folder(url, not_read)
        if not found:
            raise DataError(f"{path}: no file is called like that. Correct 'path'.")
        # One look: a wrong bucket would fail for all, and to look at ten thousand takes minutes.
        store, name = beside(found[0])
        if not store.exists(name):
            raise DataError(f"{found[0]}: there is no such file. Correct 'path'.")
    except VlkitError:
        raise
    except Exception as error:  # of a library of a storage it can be anything
        raise DataError(f"{path}: cannot be looked up ({type(error).__name__}: {error}).") from error
    return found


def _shards(file: str, options: InputOptions) -> list[InputShard]:
    """The parts of a file, not yet named."""
    if suffix_of(file) == ".tar":
        return [InputShard("", "tar", file)]
    rows = options.rows_per_shard
    try:
        places = cut(kept_copy(file).file, suffix_of(file), rows, options.max_text_bytes)
        if places:
            _check_keys(file, places[0], options)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({reason(error)}).") from error
    except Damage as error:
        raise DataError(f"{file}: {error}. A list of rows is needed, or a row in each line.") from error
    if not places:
        raise DataError(f"{file}: holds no rows.")
    counts = [*(rows for _ in places[1:]), None]
    return [InputShard("", "rows", file, place.row, count, place.offset) for place, count in zip(places, counts)]


def _check_keys(file: str, first: Place, options: InputOptions) -> None:
    """Look whether the first rows name images at all."""
    local, seen = kept_copy(file).file, list[Row]()
    with contextlib.suppress(Damage):  # the ledger names it when the rows are read
        for _, row in islice(read_list(local, suffix_of(file), first, None, options.max_text_bytes), _FIRST_ROWS):
            seen += [row] if isinstance(row, dict) else []
    keys = RowKeys(options)
    try:
        found = [keys.image(row) for row in seen]
        for row in seen:
            keys.caption(row)
    except Ambiguous as error:
        raise DataError(f"{file}: {error}") from error
    if seen and not any(found):
        raise DataError(
            f"{file}: its first rows have {lacks(keys.wanted_image, dict.fromkeys(list(seen[0])[:10]))} Set image_key "
            "to the one that names the image files. (Images behind addresses have to be downloaded: img2dataset does "
            "that, and its shards are read as they are.)"
        )
