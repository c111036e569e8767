"""Find the shards of an input, and say which files of a directory are not read."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vlkit.capfilt.backends import LocalStore, Store, store_of
from vlkit.capfilt.input_lists import SUFFIXES, Damage, Row, RowOffset, read_list, shard_offsets
from vlkit.capfilt.input_rows import read_rows, suffix_of
from vlkit.capfilt.input_tar import read_tar
from vlkit.capfilt.input_texts import Ambiguous, RowKeys
from vlkit.capfilt.inputs import (
    REASONS,
    InputOptions,
    InputShard,
    Item,
    Refused,
    beside,
    kept_copy,
    local_copy,
    local_path,
    reason,
    shard_names,
)
from vlkit.datasets.faults import lacks
from vlkit.datasets.media import media_root
from vlkit.datasets.shard_files import CAPFILT_RECORD, IMAGES, WILD, check_found, expand, expand_braces
from vlkit.datasets.shard_writer import RECORD as SHARDS_RECORD
from vlkit.errors import DataError, VlkitError

logger = logging.getLogger(__name__)

_FIRST_ROWS = 20  # rows of a list


class Inputs(NamedTuple):
    """The shards of an input, and what is not read.

    Args:
        shards: in its order.
        not_read: files and folders in the folders that were given, of which nothing is read.
    """

    shards: list[InputShard]
    not_read: list[str]


def find_inputs(options: InputOptions) -> list[InputShard]:
    """Return the shards of an input; see :func:`find_all`."""
    return find_all(options).shards


def find_all(options: InputOptions) -> Inputs:
    """Find the shards of an input, in its order: every tar, and every range of rows of a list.

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
    """Return the files of a path, and add those of a folder that are not read to ``not_read``."""
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
    """Return the files of an address: a brace pattern, ``*`` in its last part, or a folder."""
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
    """Return the shards of a file, not yet named."""
    if suffix_of(file) == ".tar":
        return [InputShard("", "tar", file)]
    rows = options.rows_per_shard
    try:
        places = shard_offsets(kept_copy(file).file, suffix_of(file), rows, options.max_text_bytes)
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


def _check_keys(file: str, first: RowOffset, options: InputOptions) -> None:
    """Check that the first rows name images at all."""
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


READ = (".tar", ".parquet")
"""Suffixes of the files that are read of a folder: the first that occurs, in upper or lower case."""
_COMPRESSED = (".gz", ".tgz", ".zst", ".tzst", ".bz2", ".tbz2", ".xz", ".txz", ".lz4", ".zip")
_OURS = (SHARDS_RECORD, CAPFILT_RECORD, "summary.json")
_NAMED = 3


class FolderFiles(NamedTuple):
    """The content of a folder.

    Args:
        read: names of the files that are read, in order; one may be a link that leads nowhere.
        not_read: names of everything else; those of folders end with "/". Hidden files and records of ours are left
            out.
    """

    read: list[str]
    not_read: list[str]


def files_in(folder: str, store: Store) -> FolderFiles:
    """Divide the entries of a folder into those that are read and the others.

    Args:
        folder: named in errors.
        store: its storage; only of a folder of this machine, folders in it are named, too.

    Raises:
        DataError: nothing in it is read.
        OSError: it cannot be listed; other storages raise anything.
    """
    found = _entries(store.folder) if isinstance(store, LocalStore) else store.names("")
    names = [name for name in found if not name.startswith(".") and name not in _OURS]
    suffix = next((each for each in READ if any(name.lower().endswith(each) for name in names)), "")
    read = sorted(name for name in names if suffix and name.lower().endswith(suffix))
    others = sorted(set(names) - set(read), key=lambda name: (name.endswith("/"), name))
    if not read:
        raise DataError(f"{folder}: {_nothing(folder, store, others)}")
    return FolderFiles(read, others)


def described(names: Sequence[str]) -> str:
    """Group names by their suffixes: ``12 .jpg (a.jpg, b.jpg, c.jpg, ...), 1 folder (images/)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        kind = "folder" if name.endswith("/") else _suffix(name) or "without a suffix"
        groups.setdefault(kind, []).append(name)
    return ", ".join(f"{len(group)} {kind} ({_few(group)})" for kind, group in groups.items())


def is_compressed(name: str) -> bool:
    """Return whether the name is that of a compressed file."""
    return name.lower().endswith(_COMPRESSED)


def _nothing(folder: str, store: Store, others: list[str]) -> str:
    """Explain why nothing of a folder is read."""
    holds = f"; it holds {described(others)}" if others else ""
    found = f"the folder holds no *.tar file and no *.parquet file{holds}."
    if store.exists(CAPFILT_RECORD):
        return f"{found} It is an output of vlkit capfilt: what that kept is in {folder.rstrip('/')}/kept."
    if any(map(is_compressed, others)):
        return f"{found} Decompress the shards: samples are read at their places, which compression hides."
    lists = [name for name in others if name.lower().endswith((".jsonl", ".ndjson", ".json"))]
    if lists:
        return f"{found} Set 'path' to a list itself, such as {folder.rstrip('/')}/{lists[0]}."
    below = [name for name in others if name.endswith("/")]
    if below:
        return f"{found} Set 'path' to a folder that holds shards, such as {folder.rstrip('/')}/{below[0]}."
    return f"{found} Set 'path' to webdataset shards, or to a list of images."


def _entries(folder: Path) -> list[str]:
    """List a folder, with links that lead nowhere."""
    with os.scandir(folder) as entries:
        return [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]


def _suffix(name: str) -> str:
    first, last = os.path.splitext(name)
    inner = os.path.splitext(first)[1].lower() if last.lower() in _COMPRESSED else ""
    return (inner if inner == ".tar" else "") + last.lower()


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_NAMED]) + ", ..." * (len(shown) > _NAMED)


__all__ = ["REASONS", "InputOptions", "InputShard", "Inputs", "Item", "Refused", "find_all", "find_inputs"]
__all__ += ["read_shard"]


def read_shard(shard: InputShard, options: InputOptions) -> Iterator[Item | Refused]:
    """Read a shard in its order; equal files give equal results.

    Whatever a file holds, nothing is raised: what cannot be used is given as :class:`Refused`. A shard that lies
    elsewhere is copied to this machine first.

    Args:
        shard: one of those that :func:`find_inputs` gives.
        options: those that it was found with.

    Raises:
        VlkitError: this machine has no room for the copy, or lacks the package that reads it.
    """
    if shard.kind == "rows":
        yield from read_rows(shard, options)
        return
    try:
        with local_copy(shard.path) as file:
            yield from read_tar(shard.name, file, options)
    except OSError as error:
        yield Refused(shard.name, "shard", "unreadable shard", reason(error))
