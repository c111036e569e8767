"""The output folder of a run: what it holds, and whose it is."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vlkit.config.yamlfile import dump_yaml, parse_yaml
from vlkit.errors import ConfigError, DataError, redacted_data
from vlkit.io.checkpoint_files import steps_in
from vlkit.io.disk_errors import named
from vlkit.io.files import atomic_write
from vlkit.io.folders import why_unwritable
from vlkit.io.json_reader import parse_json
from vlkit.io.json_writer import finite_or_none
from vlkit.runner.config_changes import (
    changes,
    digest,
    mapping_of,
    of_training,
    plain,
    requested,
    sentences,
    trained_keys,
)
from vlkit.runner.writer import WriterLock

logger = logging.getLogger(__name__)

CONFIG, RESULT = "config.yaml", "result.json"
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
        config: the resolved configuration. ``run.take_over`` is not recorded: it is meant for one start.
        take_over: whether the folder is taken from a process that holds it.
        facts: more for ``environment.json``, such as hashes of weights.

    Attributes:
        begun: whether a run was begun here before :meth:`claim`.
        writer: who may write to the folder.
    """

    def __init__(
        self, path: Path, config: Mapping[str, Any], take_over: bool = False, facts: Mapping[str, Any] | None = None
    ):
        self.path, self.config, self.facts = path, redacted_data(plain(config)), dict(facts or {})
        if isinstance(self.config.get("run"), dict):
            self.config["run"].pop("take_over", None)
        self.begun = False
        self.writer = WriterLock(path, take_over)

    @property
    def config_hash(self) -> str:
        """Equal for configurations that give the same weights."""
        return digest(of_training(self.config))

    @property
    def evaluation_hashes(self) -> dict[str, str]:
        """For each evaluation set a text that changes when other scores are to be expected of the same weights."""
        sets = mapping_of(mapping_of(self.config.get("datasets")).get("eval"))
        return {str(name): digest([each, self.config.get("task")]) for name, each in sets.items()}

    def check(self) -> None:
        """Look whether the folder can be made and written, and is free or was left by the same run.

        Raises:
            ConfigError: it cannot, or another run lives here.
        """
        if why := why_unwritable(self.path):
            raise ConfigError(f"{self.path} cannot be made: {why}. Choose another run.output_dir.")
        if not (self.path / CONFIG).exists() and steps_in(self.path / "checkpoints"):
            raise ConfigError(
                f"{self.path} holds checkpoints, but no {CONFIG} that says of which run. Restore it, or choose another "
                "run.output_dir, or delete the folder to start over."
            )
        self._check_same()

    def claim(self) -> dict[str, Any] | None:
        """Take the folder for this run: new, or left by the same one. It is held until :meth:`release`.

        Returns:
            The result, if the run is finished and neither its length nor what is evaluated was changed since; then the
            folder is not held.

        Raises:
            ConfigError: another run lives here, another process holds the folder, or it cannot be made.
            FileError: it cannot be written.
        """
        self.check()
        if (result := self.finished()) is not None:
            return result
        self.hold()
        try:
            self.check()  # again: nobody else can change it now
            self.begun = (self.path / CONFIG).exists()
            result = self.finished()
            if result is None:
                if (before := self.result()) is not None:
                    self.reopen(before)
                self.record()
        except BaseException:
            self.release()
            raise
        if result is not None:
            self.release()
        return result

    def hold(self) -> None:
        """Become the one process that writes here.

        Raises:
            ConfigError: another one does, or the folder cannot be made.
            FileError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run.output_dir {self.path} cannot be made: {error}.") from error
        self.writer.acquire()

    def release(self) -> None:
        """Let other processes write here."""
        self.writer.release()

    def record(self) -> None:
        """Write the configuration."""
        write_text(self.path / CONFIG, dump_yaml(self.config))

    @property
    def is_gone(self) -> bool:
        """Whether the folder was removed, or emptied, since it was claimed."""
        return not (self.path / CONFIG).exists()

    def finished(self) -> dict[str, Any] | None:
        """The result of a finished run; None: there is none, or a changed length or evaluation asks for more.

        Raises:
            ConfigError: the change cannot be followed.
        """
        result, before = self.result(), self._before()
        if result is None:
            return None
        changed = sentences(requested(before), requested(self.config))
        optim = changes(before.get("optim"), self.config.get("optim"))
        if optim and not changed:
            raise ConfigError(
                f"{self.path}: this run is finished after {result['step']} steps, and only settings of the optimizer "
                f"were changed ({'; '.join(optim)}). Make it longer too (run.duration, run.max_epochs, ...)."
            )
        if changed and not any((self.path / "checkpoints").glob("step_*")):
            raise ConfigError(
                f"{self.path}: this run is finished, and its checkpoints are gone, so it cannot be continued after a "
                f"change ({changed}). Undo the change, or choose another run.output_dir."
            )
        return None if changed else result

    def reopen(self, result: Mapping[str, Any]) -> None:
        """Set the result of a finished run aside, which is to be continued."""
        logger.info("%s: this run was finished after step %s; it is continued.", self.path, result["step"])
        (self.path / RESULT).replace(self.path / f"result_{result['step']:08d}.json")

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file in one piece.

        Raises:
            FolderTaken: another process has taken the folder over.
            FileError: it cannot be written.
        """
        self.writer.check()
        content = redacted_data(finite_or_none(content))
        write_text(self.path / name, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def _check_same(self) -> None:
        before = self._before()
        changed = bool(mapping_of(self.config.get("run")).get("change_optimizer"))
        found = sentences(trained_keys(before, changed), trained_keys(self.config, changed))
        if found:
            raise ConfigError(
                f"{self.path} holds a run with another configuration: {found}. Choose another run.output_dir, or "
                "delete the folder to start over. To continue this run with other optimizer settings, set "
                "run.change_optimizer=true; to start another run from its weights, set "
                f"run.init_from={self.path} and another run.output_dir."
            )

    def _before(self) -> dict[str, Any]:
        """The configuration of the run that is here; without any, that of this one."""
        file = self.path / CONFIG
        if not file.exists():
            return self.config
        with named(file, "read"):
            found = redacted_data(plain(parse_yaml(file.read_bytes(), str(file), file)))
        if not isinstance(found, dict):
            raise ConfigError(
                f"{file} holds a {type(found).__name__}, not the configuration of a run. Restore it, or choose another "
                "run.output_dir."
            )
        return found

    def result(self) -> dict[str, Any] | None:
        """What a finished run left; None: there is none.

        Raises:
            ConfigError: it is damaged.
        """
        file = self.path / RESULT
        if not os.path.lexists(file):
            return None
        advice = "Delete it, and the run continues from its newest checkpoint."
        try:
            with named(file, "read"):
                found = parse_json(file.read_bytes(), str(file))
        except DataError as error:
            raise ConfigError(f"{error} {advice}") from error
        if not isinstance(found, dict) or type(found.get("step")) is not int:
            raise ConfigError(f"{file}: is no result of a run. {advice}")
        return found


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
        "command": redacted_data(sys.argv),
        "device": {"type": device.type, "name": name, "processes": world_size},
        **facts,
    }


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is the old or the new one at any moment."""
    with atomic_write(path, "w") as file:
        file.write(text)


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
