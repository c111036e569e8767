"""Compare the configurations of a run: what changed, and whether the run may still be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vlkit.config.yamlfile import Node
from vlkit.errors import RegistryError
from vlkit.registry import TASKS

NEUTRAL = (
    "output_dir",
    "bad_samples",
    "eval_batch_size",
    "num_workers",
    "log_every",
    "checkpoint_every",
    "eval_every",
    "keep_checkpoints",
    "device",
    "activation_checkpointing",
    "compile",
    "cuda_graphs",
    "parallel",
    "monitor",
    "mode",
    "tensorboard",
    "wandb",
    "sample_images",
    "check",
    "change_optimizer",
    "take_over",
)
"""Keys of ``run`` that do not change the sequence of weights, so a run may be resumed with other values."""
LENGTHS = ("duration", "max_steps", "max_epochs", "max_samples")
"""Keys of ``run`` that set the length of training: a run may be made longer."""


def plain(config: Any) -> Any:
    """Convert a configuration to what YAML reads: mappings, lists, strings and numbers only."""
    value = config.value if isinstance(config, Node) else config
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def changes(before: Any, after: Any) -> list[str]:
    """Describe each value that differs between two trees of plain data."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    keys = [key for key in {**old, **new} if old.get(key, "absent") != new.get(key, "absent")]
    return [f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}" for key in keys]


def sentences(before: Any, after: Any) -> str:
    """Join the first five :func:`changes`; empty if there are none."""
    found = changes(before, after)
    return "; ".join(found[:5]) + (f" (and {len(found) - 5} more)" if len(found) > 5 else "")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Describe the changes between two configurations that lead to other weights; empty if there are none."""
    return sentences(_without(before, NEUTRAL), _without(after, NEUTRAL))


def training_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Describe the changes with which a run cannot be resumed (evaluation and length are free); empty if there are
    none."""
    return sentences(fixed_part(before), fixed_part(after))


def training_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the weights depend on."""
    kept = _without(config, NEUTRAL)
    if isinstance(kept.get("datasets"), dict):
        kept["datasets"] = {key: value for key, value in kept["datasets"].items() if key != "eval"}
    task = kept.get("task")
    if isinstance(task, dict):
        free = _evaluation_keys(task.get("name"))
        kept["task"] = {key: value for key, value in task.items() if key not in free}
    return kept


def fixed_part(config: Mapping[str, Any], optimizer_free: bool = False) -> dict[str, Any]:
    """Return what must not change when a run is resumed.

    Args:
        config: of the run.
        optimizer_free: whether the section ``optim`` and ``run.grad_accum_steps`` may change.
    """
    kept = _without(training_part(config), (*LENGTHS, "grad_accum_steps") if optimizer_free else LENGTHS)
    if optimizer_free:
        kept.pop("optim", None)
    return kept


def requested_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a finished run was to give: its length and its scores."""
    run = mapping_of(config.get("run"))
    return {
        "datasets": {"eval": mapping_of(config.get("datasets")).get("eval")},
        "task": config.get("task"),
        "run": {key: run.get(key) for key in (*LENGTHS, "monitor", "mode")},
    }


def mapping_of(value: Any) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits that identify plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _without(config: Mapping[str, Any], run_keys: Collection[str]) -> dict[str, Any]:
    """Copy a configuration without some keys of ``run``."""
    kept = dict(config)
    if isinstance(kept.get("run"), dict):
        kept["run"] = {key: value for key, value in kept["run"].items() if key not in run_keys}
    return kept


def _evaluation_keys(task: Any) -> Collection[str]:
    """Return the keys of a task that do not affect training, as its class declares them."""
    try:
        keys = getattr(TASKS.get(task), "evaluation_keys", ()) if isinstance(task, str) else ()
        return (keys,) if isinstance(keys, str) else keys
    except RegistryError:
        return ()


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, (dict, list)) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
