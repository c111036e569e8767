"""The output folder of a run: claimed for one run and one process, with configuration, result and environment."""

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

from vlkit.config.old_keys import tree_with_current_keys
from vlkit.config.yamlfile import dump_yaml, parse_yaml
from vlkit.errors import ConfigError, DataError, redacted_data
from vlkit.io.checkpoint_files import steps_in
from vlkit.io.disk_errors import named
from vlkit.io.files import atomic_write, why_unwritable
from vlkit.io.json import finite_or_none, parse_json
from vlkit.runner.config_changes import (
    changes,
    digest,
    fixed_part,
    mapping_of,
    plain,
    requested_part,
    sentences,
    training_part,
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
    """The folder of one run.

    Args:
        path: created when something is written.
        config: the resolved configuration. ``run.take_over`` is not recorded: it applies to one start.
        take_over: take the folder even from a process that holds it.
        facts: more for ``environment.json``, such as hashes of weights.

    Attributes:
        begun: whether the folder held an unfinished run at :meth:`claim`.
        writer: the lock of the folder.
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
        """Hash that is equal for configurations that give the same weights."""
        return digest(training_part(self.config))

    @property
    def evaluation_hashes(self) -> dict[str, str]:
        """For each evaluation set a hash of what its scores depend on besides the weights."""
        sets = mapping_of(mapping_of(self.config.get("datasets")).get("eval"))
        return {str(name): digest([each, self.config.get("task")]) for name, each in sets.items()}

    def check(self) -> None:
        """Check that the folder can be created and written, and is empty or belongs to the same run.

        Raises:
            ConfigError: it cannot, or it belongs to another run.
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
        """Claim the folder for this run, and hold it until :meth:`release`.

        Returns:
            The result, if the run is finished and neither its length nor its evaluation was changed since; then the
            folder is not held.

        Raises:
            ConfigError: the folder belongs to another run or process, or cannot be created.
            FileError: it cannot be written.
        """
        self.check()
        if (result := self.finished()) is not None:
            return result
        self.hold()
        try:
            self.check()  # again, now that no other process changes it
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
        """Create the folder and acquire its lock.

        Raises:
            ConfigError: another process holds it, or it cannot be created.
            FileError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run.output_dir {self.path} cannot be made: {error}.") from error
        self.writer.acquire()

    def release(self) -> None:
        """Release the lock of the folder."""
        self.writer.release()

    def record(self) -> None:
        """Write the configuration."""
        write_text(self.path / CONFIG, dump_yaml(self.config))

    @property
    def is_gone(self) -> bool:
        """Whether the folder was removed or emptied since it was claimed."""
        return not (self.path / CONFIG).exists()

    def finished(self) -> dict[str, Any] | None:
        """Return the result of a finished run; None without one, or if a changed length or evaluation requires more.

        Raises:
            ConfigError: the run cannot be resumed with the change.
        """
        result, before = self.result(), self._before()
        if result is None:
            return None
        changed = sentences(requested_part(before), requested_part(self.config))
        optim = changes(before.get("optim"), self.config.get("optim"))
        if optim and not changed:
            raise ConfigError(
                f"{self.path}: this run is finished after {result['step']} steps, and only settings of the optimizer "
                f"were changed ({'; '.join(optim)}). Make it longer too (run.duration, run.max_epochs, ...)."
            )
        if changed and not any((self.path / "checkpoints").glob("step_*")):
            raise ConfigError(
                f"{self.path}: this run is finished, and its checkpoints are gone, so it cannot be resumed after a "
                f"change ({changed}). Undo the change, or choose another run.output_dir."
            )
        return None if changed else result

    def reopen(self, result: Mapping[str, Any]) -> None:
        """Rename the result of a finished run that is to be resumed."""
        logger.info("%s: this run was finished after step %s; it is resumed.", self.path, result["step"])
        (self.path / RESULT).replace(self.path / f"result_{result['step']:08d}.json")

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically.

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
        found = sentences(fixed_part(before, changed), fixed_part(self.config, changed))
        if found:
            raise ConfigError(
                f"{self.path} holds a run with another configuration: {found}. Choose another run.output_dir, or "
                "delete the folder to start over. To resume this run with other optimizer settings, set "
                "run.change_optimizer=true; to start another run from its weights, set "
                f"run.init_from={self.path} and another run.output_dir."
            )

    def _before(self) -> dict[str, Any]:
        """Return the recorded configuration; without one, that of this run."""
        file = self.path / CONFIG
        if not file.exists():
            return self.config
        with named(file, "read"):
            found = redacted_data(plain(tree_with_current_keys(parse_yaml(file.read_bytes(), str(file), file))))
        if not isinstance(found, dict):
            raise ConfigError(
                f"{file} holds a {type(found).__name__}, not the configuration of a run. Restore it, or choose another "
                "run.output_dir."
            )
        return found

    def result(self) -> dict[str, Any] | None:
        """Return the content of ``result.json``, or None.

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
    """Return what results depend on besides the configuration: versions, commit, device and more.

    Args:
        device: of the run.
        world_size: number of processes.
        facts: such as fingerprints of the data and hashes of the weights.
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
    """Write a text file atomically."""
    with atomic_write(path, "w") as file:
        file.write(text)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the checkout that holds this package; None for an installed one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
