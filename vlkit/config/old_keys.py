"""Keys that were renamed, and how records of earlier versions are read.

A file that people write must use the new key; the error for the old one names it. Records that vlkit wrote itself
(``config.yaml`` of a run folder, ``trainer.json`` of a checkpoint, ``capfilt.json``, the records of a pipeline) may
hold the keys of the version that wrote them and are converted when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlkit.config.yamlfile import Node

RENAMED = {
    "run.accumulate": "run.grad_accum_steps",
    "run.readers": "run.decode_threads",  # of CapFilt jobs
    "settings.accumulate": "settings.grad_accum_steps",  # of trainer.json
}
"""Old key path to the new one, each of a section and a key in it."""
REMOVED = {
    "task.image_tokens": (
        "retrieval",
        "image tokens stay in memory up to image_tokens_gib, further ones go to a temporary file. Remove the key.",
    ),
}
"""Removed key path to the name of the component that had it, and what replaces it."""
LATER_OPTIONS = {"run.output": "shards"}
"""Options that CapFilt jobs have had since, with the value that was the only one before."""


def new_key(path: str) -> str | None:
    """Return the key that replaces the last one of a key path; None if it was not renamed."""
    found = RENAMED.get(path)
    return found.rpartition(".")[2] if found else None


def with_current_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its old keys replaced and removed ones dropped; the order of keys stays.

    Args:
        record: plain data: sections with their keys.
    """
    current = dict(record)
    for old, new in RENAMED.items():
        (section, old_name), new_name = old.split("."), new.rpartition(".")[2]
        content = current.get(section)
        if isinstance(content, Mapping) and old_name in content and new_name not in content:
            current[section] = {new_name if key == old_name else key: value for key, value in content.items()}
    for path, (owner, _) in REMOVED.items():
        section, name = path.split(".")
        content = current.get(section)
        if isinstance(content, Mapping) and _plain(content.get("name")) == owner:
            current[section] = {key: value for key, value in content.items() if key != name}
    return current


def capfilt_with_current_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a CapFilt job with its old keys replaced and options added that did not exist."""
    current = with_current_keys(record)
    for path, value in LATER_OPTIONS.items():
        section, _, name = path.partition(".")
        if isinstance(current.get(section), Mapping):
            current[section] = {name: value, **current[section]}
    return current


def tree_with_current_keys(root: Node) -> Node:
    """Return a parsed record with its old keys replaced; places stay.

    Args:
        root: a mapping of sections.
    """
    if not isinstance(root.value, dict):
        return root
    sections = with_current_keys({name: node.value for name, node in root.value.items()})
    return Node({name: Node(value, root.value[name].place) for name, value in sections.items()}, root.place)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Node) else value


def is_record(file: Path) -> bool:
    """Return whether a file is the ``config.yaml`` that a run recorded in its folder."""
    return file.name == "config.yaml" and (file.parent / "environment.json").is_file()
