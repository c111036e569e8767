"""The output folder of a run: what it holds, and whose it is."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vlkit.config.yamlfile import Node, dump_yaml, parse_yaml
from vlkit.errors import ConfigError
from vlkit.folders import why_unwritable
from vlkit.io import atomic_write
from vlkit.runner.log import finite_or_none

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
)
"""Keys of ``run`` that leave the sequence of weights as it is: a run may be continued with others."""
_PACKAGES = (
    "vlkit",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "tokenizers",
    "numpy",
    "pillow",
    "safetensors",
)


class OutputFolder:
    """One run's folder.

    Args:
        path: where it is; made when something is written.
        config: the resolved configuration.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]):
        self.path, self.config = path, plain(config)

    @property
    def config_hash(self) -> str:
        """Equal for configurations that give the same weights."""
        text = json.dumps(_essential(self.config), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self) -> None:
        """Look whether the folder can be made and written, and is free or was left by the same run.

        Raises:
            ConfigError: it cannot, or another run lives here.
        """
        if why := why_unwritable(self.path):
            raise ConfigError(f"{self.path} cannot be made: {why}. Choose another run.output_dir.")
        file = self.path / "config.yaml"
        if file.exists():
            self._check_same(file)

    def claim(self) -> dict[str, Any] | None:
        """Take the folder for this run: new, or left by the same one.

        Returns:
            The result, if the run is finished.

        Raises:
            ConfigError: another run lives here, or the folder cannot be made.
        """
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run.output_dir {self.path} cannot be made: {error}.") from error
        result = self.path / "result.json"
        if result.exists():
            return json.loads(result.read_text())
        write_text(self.path / "config.yaml", dump_yaml(self.config))
        return None

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file in one piece."""
        write_text(self.path / name, json.dumps(finite_or_none(content), indent=1, allow_nan=False) + "\n")

    def _check_same(self, file: Path) -> None:
        told = differences(plain(parse_yaml(file.read_bytes(), str(file), file)), self.config)
        if told:
            raise ConfigError(
                f"{self.path} holds a run with another configuration: {told}. Choose another run.output_dir, or "
                "delete the folder to start over."
            )


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
    old, new = (dict(_leaves(_essential(config))) for config in (before, after))
    keys = [key for key in {**old, **new} if old.get(key, "absent") != new.get(key, "absent")]
    told = [f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}" for key in keys[:5]]
    return "; ".join(told) + (f" (and {len(keys) - 5} more)" if len(keys) > 5 else "")


def environment(device: torch.device, world_size: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a number depends on besides the configuration.

    Args:
        device: of the run.
        world_size: number of processes.
        facts: fingerprints of the data, hashes of the weights and the like.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "git_commit": _git_commit(),
        "command": sys.argv,
        "device": {"type": device.type, "name": name, "processes": world_size},
        **facts,
    }


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is the old or the new one at any moment."""
    with atomic_write(path, "w") as file:
        file.write(text)


def _essential(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = copy.deepcopy(dict(config))
    if isinstance(kept.get("run"), dict):
        kept["run"] = {key: value for key, value in kept["run"].items() if key not in NEUTRAL}
    return kept


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, (dict, list)) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that this package lies in; None for an installed one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
