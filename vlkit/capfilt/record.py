"""The record of a job in its output folder: which job the folder belongs to, and how it is emptied for another."""

from __future__ import annotations

from typing import Any

from vlkit.capfilt.claims import FOLDER as CLAIMS
from vlkit.capfilt.output import NOT_READ, RECORD, StoredShard
from vlkit.capfilt.shard_output import DONE, SUFFIXES, SUMMARY, file_name
from vlkit.capfilt.storage import Storage
from vlkit.config.old_keys import capfilt_with_current_keys
from vlkit.errors import ConfigError, DataError
from vlkit.io.json import json_text, parse_json
from vlkit.runner.config_changes import differences


def write_record(place: Storage, record: dict[str, Any]) -> None:
    """Write what job the folder belongs to, unless that is written.

    Raises:
        ConfigError: it belongs to another job.
    """
    data = json_text(record, indent=1).encode() + b"\n"
    if not place.create(RECORD, data) and is_replaceable(place, record):
        forget_all(place)
        place.write_bytes(RECORD, data)


def is_replaceable(place: Storage, record: dict[str, Any]) -> bool:
    """Whether the folder holds another job of which nothing came, so that this one may replace it.

    Raises:
        ConfigError: it holds another job that must not be replaced.
    """
    if not place.exists(RECORD):
        if place.list(DONE):
            raise ConfigError(f"{place} holds shards, but no {RECORD}. Choose another run.output_dir.")
        return False
    try:
        before = parse_json(place.read_bytes(RECORD), f"{place}/{RECORD}")
    except DataError as error:
        raise ConfigError(f"{error} Choose another run.output_dir.") from error
    changed = differences(_compared(before), _compared(record))
    if changed and not nothing_came(place, before):
        raise ConfigError(
            f"{place} holds another job: {changed}. Choose another run.output_dir, or delete the folder to start over."
        )
    return bool(changed)


def nothing_came(place: Storage, record: Any = None) -> bool:
    """Whether shards are done, but nothing came of them, and no worker holds a claim on others.

    Args:
        place: output folder.
        record: of its job. Where that keeps captions of the web alone, and is not finished, images without one are
            nothing, too.
    """
    done = done_shards(place)
    if not done or place.list(CLAIMS):
        return False
    counts = [StoredShard.of(place, name).counts for name in sorted(done)]
    if _keeps_web_only(record) and not place.exists(SUMMARY):
        return not any(each.web_scored for each in counts)
    return not any(each.annotated for each in counts)


def forget_all(place: Storage) -> None:
    """Remove all shards, and the summary."""
    place.remove(SUMMARY)
    for name in done_shards(place):
        forget(place, name)


def forget(place: Storage, name: str) -> None:
    """Remove the manifest and the files of a shard."""
    files = StoredShard.of(place, name).files
    place.remove(file_name(DONE, name))
    for file in files:
        place.remove(file)


def done_shards(place: Storage) -> set[str]:
    """Return the names of the shards that are done."""
    return {name.removesuffix(SUFFIXES[DONE]) for name in place.list(DONE)}


def _compared(record: Any) -> Any:
    """Return the part of a record on which two commands have to agree."""
    if not isinstance(record, dict):
        return record
    return {key: value for key, value in capfilt_with_current_keys(record).items() if key != NOT_READ}


def _keeps_web_only(record: Any) -> bool:
    try:
        return bool(record["task"]["decision"]["texts"] == "web")
    except (KeyError, TypeError):
        return False
