"""Write, find and load the checkpoints of a run; a checkpoint folder is either complete or absent, and has no pickle.

``checkpoints/step_00000100/`` holds ``model.safetensors`` (tied tensors once), ``optimizer.safetensors`` (by
parameter name) and ``trainer.json`` (everything else, with checksums: see :mod:`vlkit.io.checkpoint_files`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vlkit.errors import CheckpointError, ConfigError, VlkitError, did_you_mean
from vlkit.io.checkpoint_files import MODEL, OPTIMIZER, TRAINER, VERSION, read_trainer, seal, steps_in, verify
from vlkit.io.disk_errors import FileError
from vlkit.io.files import atomic_dir, atomic_write, sha256
from vlkit.io.tensor_files import damaged_values, describe_non_finite, load_tensors, non_finite, save_tensors
from vlkit.runner.optimizer import restore_by_name, shard_like, state_by_name

logger = logging.getLogger(__name__)


@dataclass
class Best:
    """Track the best value of the monitored score.

    Args:
        monitor: ``<evaluation set>/<score>``, or None: no checkpoint is the best.
        mode: ``max`` or ``min``.
        step: when it was reached.
        value: the score; None before the first number.
    """

    monitor: str | None
    mode: str = "max"
    step: int | None = None
    value: float | None = None

    def update(self, step: int, scores: Mapping[str, float]) -> bool:
        """Update the best from ``scores``; return whether they beat it. NaN never does.

        Raises:
            ConfigError: the monitored score is not among them.
        """
        if self.monitor is None:
            return False
        if self.monitor not in scores:
            raise ConfigError(
                f"run.monitor is {self.monitor!r}, which no evaluation gives."
                f"{did_you_mean(self.monitor, scores)} Available: {', '.join(sorted(scores)) or 'nothing'}."
            )
        value = float(scores[self.monitor])
        if math.isnan(value):
            return False
        if self.value is not None and not (value > self.value if self.mode == "max" else value < self.value):
            return False
        self.step, self.value = step, value
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of a checkpoint, unless that monitored another score."""
        if (state["monitor"], state["mode"]) == (self.monitor, self.mode):
            self.step, self.value = state["step"], state["value"]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: ``checkpoints`` in the output folder.
        keep: number of newest checkpoints to keep, at least 1, in addition to the best one.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, max(1, keep)
        self._sound: set[int] = set()  # written or verified by this process
        self._damaged: set[int] = set()

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of a step."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """List the steps that have a checkpoint, sound or not, in ascending order."""
        return steps_in(self.folder)

    def newest(self, required: Collection[str] = ()) -> Path | None:
        """Find the newest checkpoint whose files match their checksums; skip damaged ones with one warning.

        Args:
            required: keys that ``trainer.json`` must have, as in :data:`vlkit.io.checkpoint_files.STATE`.

        Returns:
            Its path, or None without checkpoints.

        Raises:
            CheckpointError: all of them are damaged.
        """
        reasons: list[str] = []
        for step in reversed(self.steps()):
            reason = self.problem(step, required)
            if not reason:
                if reasons:
                    logger.warning("%s The run continues from %s instead.", " ".join(reasons), self.path(step).name)
                return self.path(step)
            reasons.append(reason)
        if not reasons:
            return None
        raise CheckpointError(
            f"no checkpoint of the run in {self.folder} can be used: {' '.join(reasons)} Nothing was changed. Restore "
            f"one of them from a copy; or delete {self.folder} to train from step 0; or choose another run.output_dir."
        )

    def problem(self, step: int, required: Collection[str] = ()) -> str:
        """Return what is wrong with the checkpoint of a step, or ""."""
        try:
            verify(self.path(step), required=required)
        except CheckpointError as error:
            self._damaged.add(step)
            return str(error)
        self._sound.add(step)
        return ""

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, trainer: dict[str, Any]) -> Path:
        """Write the state of an unsharded model and its optimizer; see :meth:`write`."""
        return self.write(model.state_dict(keep_vars=True), state_by_name(optimizer), trainer)

    def write(
        self, weights: Mapping[str, Tensor], optimizer_state: Mapping[str, Tensor], trainer: dict[str, Any]
    ) -> Path:
        """Write the checkpoint of ``trainer["step"]``. A killed process leaves nothing that looks complete.

        Args:
            weights: the model's state by name, tied tensors as the same object.
            optimizer_state: tensors by name, see :func:`~vlkit.runner.optimizer.state_by_name`.
            trainer: content of ``trainer.json``.

        Raises:
            CheckpointError: a weight is not finite.
            VlkitError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
        """
        _check_finite(weights, trainer["step"])
        path = self.path(trainer["step"])
        if self.renew(trainer):
            return path
        with _explained(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_dir(path) as folder:
                save_tensors(folder / MODEL, weights)
                save_tensors(folder / OPTIMIZER, optimizer_state)
                files = [folder / name for name in (MODEL, OPTIMIZER)]
                facts = {
                    "files": {file.name: file.stat().st_size for file in files},
                    "sha256": {file.name: sha256(file) for file in files},
                }
                (folder / TRAINER).write_text(seal({**trainer, "version": VERSION, **facts}))
        self._sound.add(trainer["step"])
        self._damaged.discard(trainer["step"])
        return path

    def renew(self, trainer: dict[str, Any]) -> bool:
        """Replace ``trainer.json`` of a checkpoint whose tensors this process has written or verified.

        Returns:
            False: it does not exist, and has to be written completely.

        Raises:
            VlkitError: it cannot be written.
        """
        path = self.path(trainer["step"])
        with _explained(path):
            return trainer["step"] in self._sound and self._renew(path, trainer)

    def sweep(self) -> None:
        """Remove the temporary folders of killed writes."""
        for pattern in (".step_*.tmp", ".step_*.old"):
            for leftover in self.folder.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)

    def prune(self, now: int, best: int | None) -> None:
        """Delete all checkpoints up to step ``now`` but the newest and the best.

        Damaged ones do not count as newest. Those after ``now`` stay: the run will write their steps again.
        """
        done = [step for step in self.steps() if step <= now]
        kept = [step for step in done if step not in self._damaged][-self.keep :]
        for step in set(done) - {*kept, best}:
            shutil.rmtree(self.path(step), ignore_errors=True)

    def _renew(self, path: Path, trainer: dict[str, Any]) -> bool:
        """Replace ``trainer.json`` only: the tensors of a step never change."""
        try:
            before = read_trainer(path)
        except CheckpointError:
            return False
        if "sha256" not in before:
            return False
        facts = {"version": VERSION, "files": before["files"], "sha256": before["sha256"]}
        with atomic_write(path / TRAINER, "w") as file:
            file.write(seal({**trainer, **facts}))
        return True


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Add advice to errors of writing a checkpoint."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = str(error) if isinstance(error, FileError) else f"{path} cannot be written: {error}."
        raise VlkitError(
            f"the checkpoint {reason} Earlier checkpoints are untouched; correct the cause (for room: lower "
            "run.keep_checkpoints), then start the same command again: it continues from the newest one."
        ) from error


def restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Load a checkpoint into ``model`` and ``optimizer`` in place.

    Returns:
        The content of ``trainer.json``.

    Raises:
        CheckpointError: damaged, or of another model.
    """
    trainer = read_trainer(path)
    weights = load_tensors(path / MODEL)
    own = model.state_dict(keep_vars=True)
    if wrong := damaged_values({name: weights[name] for name in own if name in weights}, own):
        raise CheckpointError(
            f"{path / MODEL} holds weights that are not finite: {describe_non_finite(wrong)}. A training that diverged "
            "wrote them. Delete this checkpoint, and the run continues from the one before."
        )
    try:
        found = {name: shard_like(tensor, own.get(name, tensor)) for name, tensor in weights.items()}
        missing, unexpected = model.load_state_dict(found, strict=False)
    except RuntimeError as error:  # sizes differ
        raise CheckpointError(f"{path / MODEL} is of another model: {error}") from error
    if missing or unexpected:
        raise CheckpointError(
            f"{path / MODEL} is of another model: {_some(missing)} missing in it, {_some(unexpected)} "
            "unexpected. Restore the config that wrote it, or choose another output_dir."
        )
    if optimizer is not None:
        try:
            restore_by_name(optimizer, load_tensors(path / OPTIMIZER))
        except KeyError as error:
            raise CheckpointError(
                f"{path / OPTIMIZER} knows the parameter {error}, which this run does not train."
            ) from error
    return trainer


def check_finite(model: nn.Module) -> None:
    """Check the initial weights of a model.

    Raises:
        CheckpointError: some are NaN or infinite; they are named.
    """
    if wrong := non_finite(dict(model.named_parameters())):
        raise CheckpointError(
            f"the model has weights that are not finite before the first step: {describe_non_finite(wrong)}. Start "
            "from other weights; the data and the learning rate are not the cause."
        )


def _check_finite(weights: Mapping[str, Tensor], step: int) -> None:
    wrong = non_finite({name: tensor for name, tensor in weights.items() if isinstance(tensor, nn.Parameter)})
    if wrong:
        raise CheckpointError(
            f"after step {step} the weight {next(iter(wrong))} is not finite, so no checkpoint is written. "
            "Lower optim.lr or set optim.grad_clip, and start again from the newest checkpoint."
        )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return "nothing"
    return f"{len(listed)} tensors ({', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''})"
