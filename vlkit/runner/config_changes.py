"""What has changed between two configurations of a run, and whether the run may be continued all the same."""

from __future__ import annotations

import copy
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
"""Keys of ``run`` that leave the sequence of weights as it is: a run may be continued with others."""
LENGTHS = ("duration", "max_steps", "max_epochs", "max_samples")
"""Keys of ``run`` that say how long to train: a run may be made longer."""


def plain(config: Any) -> Any:
    """The configuration as YAML gives it back: mappings, lists, texts and numbers only."""
    value = config.value if isinstance(config, Node) else config
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What changed between two configurations so that they give other weights, in words; empty if nothing did."""
    return sentences(_essential(before), _essential(after))


def training_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What changed so that a run cannot be continued: neither evaluation, nor length, nor what leaves the weights as
    they are. In words; empty if nothing did."""
    return sentences(trained_keys(before), trained_keys(after))


def changes(before: Any, after: Any) -> list[str]:
    """One phrase for each value that is not the same in two trees of plain data."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    keys = [key for key in {**old, **new} if old.get(key, "absent") != new.get(key, "absent")]
    return [f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}" for key in keys]


def _essential(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = copy.deepcopy(dict(config))
    if isinstance(kept.get("run"), dict):
        kept["run"] = {key: value for key, value in kept["run"].items() if key not in NEUTRAL}
    return kept


def trained_keys(config: Mapping[str, Any], optimizer_free: bool = False) -> dict[str, Any]:
    """What must stay when a run is continued.

    Args:
        config: of the run.
        optimizer_free: whether the section ``optim`` and ``run.accumulate`` need not.
    """
    kept = of_training(config)
    free = {*LENGTHS, "accumulate"} if optimizer_free else LENGTHS
    if isinstance(kept.get("run"), dict):
        kept["run"] = {key: value for key, value in kept["run"].items() if key not in free}
    if optimizer_free:
        kept.pop("optim", None)
    return kept


def of_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights depend on."""
    kept = _essential(config)
    if isinstance(kept.get("datasets"), dict):
        kept["datasets"].pop("eval", None)
    task = kept.get("task")
    if isinstance(task, dict):
        free = _evaluation_keys(task.get("name"))
        kept["task"] = {key: value for key, value in task.items() if key not in free}
    return kept


def requested(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished run was to give: its length, and its scores."""
    run = mapping_of(config.get("run"))
    return {
        "datasets": {"eval": mapping_of(config.get("datasets")).get("eval")},
        "task": config.get("task"),
        "run": {key: run.get(key) for key in (*LENGTHS, "monitor", "mode")},
    }


def _evaluation_keys(task: Any) -> Collection[str]:
    """Keys of a task that do not change what is trained, as its class declares them."""
    try:
        keys = getattr(TASKS.get(task), "evaluation_keys", ()) if isinstance(task, str) else ()
        return (keys,) if isinstance(keys, str) else keys
    except RegistryError:
        return ()


def mapping_of(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def digest(content: Any) -> str:
    """16 hexadecimal digits that identify plain data."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sentences(before: Any, after: Any) -> str:
    """The first five :func:`changes` as one text; empty if there are none."""
    found = changes(before, after)
    return "; ".join(found[:5]) + (f" (and {len(found) - 5} more)" if len(found) > 5 else "")


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, (dict, list)) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
