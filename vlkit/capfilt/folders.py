"""Which files of an input folder are read, and which are not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vlkit.capfilt.stores import LocalStore, Store
from vlkit.datasets.shard_files import CAPFILT_RECORD
from vlkit.datasets.shard_writer import RECORD as SHARDS_RECORD
from vlkit.errors import DataError

READ = (".tar", ".parquet")
"""What is read of a folder: the first of these suffixes that it has, in upper or lower case."""
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
    """Divide what is in a folder.

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
    """Names by their suffixes: ``12 .jpg (a.jpg, b.jpg, c.jpg, ...), 1 folder (images/)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        kind = "folder" if name.endswith("/") else _suffix(name) or "without a suffix"
        groups.setdefault(kind, []).append(name)
    return ", ".join(f"{len(group)} {kind} ({_few(group)})" for kind, group in groups.items())


def is_compressed(name: str) -> bool:
    """Whether a file is called like a compressed one."""
    return name.lower().endswith(_COMPRESSED)


def _nothing(folder: str, store: Store, others: list[str]) -> str:
    """Why nothing of a folder is read."""
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
    """Everything in a folder, links that lead nowhere included."""
    with os.scandir(folder) as entries:
        return [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]


def _suffix(name: str) -> str:
    first, last = os.path.splitext(name)
    inner = os.path.splitext(first)[1].lower() if last.lower() in _COMPRESSED else ""
    return (inner if inner == ".tar" else "") + last.lower()


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_NAMED]) + ", ..." * (len(shown) > _NAMED)
