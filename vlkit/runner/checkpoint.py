"""Checkpoints: folders that are either complete or not there, without pickle.

``checkpoints/step_00000100/`` holds ``model.safetensors`` (tied tensors once), ``optimizer.safetensors`` (by
parameter name) and ``trainer.json`` (everything else, and the size of the other two).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vlkit.errors import CheckpointError, VlkitError
from vlkit.io import atomic_dir, atomic_write
from vlkit.runner.optimiser import cut_like, restore_by_name, state_by_name

logger = logging.getLogger(__name__)

MODEL, OPTIMISER, TRAINER = "model.safetensors", "optimizer.safetensors", "trainer.json"
_NAME = re.compile(r"step_(\d{8,})")


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie.
        keep: how many of the newest to keep, at least 1; the best one is kept besides.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, max(1, keep)

    def path(self, step: int) -> Path:
        """Where the checkpoint of that step is, or would be."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a folder, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def newest(self) -> Path | None:
        """The newest complete checkpoint; damaged ones are passed over with a warning."""
        for step in reversed(self.steps()):
            try:
                read_trainer(self.path(step))
            except CheckpointError as error:
                logger.warning("%s The one before is tried.", error)
            else:
                return self.path(step)
        return None

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, trainer: dict[str, Any]) -> Path:
        """:meth:`write` the state of a model and an optimiser that are whole in this process."""
        return self.write(model.state_dict(keep_vars=True), state_by_name(optimiser), trainer)

    def write(self, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], trainer: dict[str, Any]) -> Path:
        """Write the checkpoint of ``trainer["step"]``. Killed, it leaves nothing that looks complete.

        Args:
            weights: the model's state by name, tied tensors as the same object.
            moments: the optimiser's tensors, see :func:`~vlkit.runner.optimiser.state_by_name`.
            trainer: the rest.

        Raises:
            CheckpointError: a weight is not finite.
            VlkitError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
        """
        _check_finite(weights, trainer["step"])
        path = self.path(trainer["step"])
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and self._renew(path, trainer):
                return path
            with atomic_dir(path) as folder:
                save_tensors(folder / MODEL, weights)
                save_tensors(folder / OPTIMISER, moments)
                sizes = {name: (folder / name).stat().st_size for name in (MODEL, OPTIMISER)}
                (folder / TRAINER).write_text(json.dumps({**trainer, "files": sizes}, indent=1))
        except (OSError, SafetensorError) as error:
            raise VlkitError(
                f"the checkpoint {path} cannot be written: {error}. Earlier checkpoints are untouched; make "
                "room (or lower run.keep_checkpoints), then start the same command again: it continues from "
                "the newest one."
            ) from error
        return path

    def sweep(self) -> None:
        """Remove what killed writes left behind."""
        for pattern in (".step_*.tmp", ".step_*.old"):
            for leftover in self.folder.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)

    def prune(self, now: int, best: int | None) -> None:
        """Delete all but the newest up to step ``now`` and the best. Later ones were found damaged; they
        stay, and do not count."""
        for step in [step for step in self.steps() if step <= now][: -self.keep]:
            if step != best:
                shutil.rmtree(self.path(step), ignore_errors=True)

    def _renew(self, path: Path, trainer: dict[str, Any]) -> bool:
        """Replace ``trainer.json`` alone: the tensors of a step are always the same."""
        try:
            sizes = read_trainer(path)["files"]
        except CheckpointError:
            shutil.rmtree(path)
            return False
        with atomic_write(path / TRAINER, "w") as file:
            file.write(json.dumps({**trainer, "files": sizes}, indent=1))
        return True


def restore(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Load a checkpoint into ``model`` (and ``optimiser``) in place.

    Returns:
        The content of ``trainer.json``.

    Raises:
        CheckpointError: damaged, or of another model.
    """
    trainer = read_trainer(path)
    try:
        own = model.state_dict()
        found = {name: cut_like(tensor, own.get(name, tensor)) for name, tensor in load_tensors(path / MODEL).items()}
        missing, unexpected = model.load_state_dict(found, strict=False)
    except RuntimeError as error:  # sizes differ
        raise CheckpointError(f"{path / MODEL} is of another model: {error}") from error
    if missing or unexpected:
        raise CheckpointError(
            f"{path / MODEL} is of another model: {_some(missing)} missing in it, {_some(unexpected)} "
            "unexpected. Restore the config that wrote it, or choose another output_dir."
        )
    if optimiser is not None:
        try:
            restore_by_name(optimiser, load_tensors(path / OPTIMISER))
        except KeyError as error:
            raise CheckpointError(
                f"{path / OPTIMISER} knows the parameter {error}, which this run does not train."
            ) from error
    return trainer


def read_trainer(path: Path) -> dict[str, Any]:
    """``trainer.json`` of a checkpoint that is seen to be complete.

    Raises:
        CheckpointError: a file is missing, cut short or unreadable; it is named.
    """
    advice = "Delete the folder, and the run continues from the checkpoint before."
    try:
        trainer = json.loads((path / TRAINER).read_text())
        sizes = trainer["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {TRAINER}: {_reason(error)}. {advice}") from error
    for name in (MODEL, OPTIMISER):
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"checkpoint {path} is damaged: {name} is missing. {advice}")
        if file.stat().st_size != sizes.get(name):
            raise CheckpointError(
                f"checkpoint {path} is damaged: {name} has {file.stat().st_size} bytes instead of "
                f"{sizes.get(name)}. {advice}"
            )
    return trainer


def save_tensors(path: Path, tensors: Mapping[str, Tensor], aliases: bool = True) -> None:
    """Write tensors as safetensors. One that goes by several names is written once, the other names in the
    header under ``aliases`` (unless that is False); overlapping views are written as copies."""
    first: dict[int, str] = {}
    others: dict[str, str] = {}
    for name, tensor in tensors.items():
        kept = first.setdefault(id(tensor), name)
        if kept != name:
            others[name] = kept
    distinct: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name in first.values():
        tensor = tensors[name].detach().to("cpu").contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        distinct[name] = tensor.clone() if pointer in storages else tensor
        storages.add(pointer)
    # One key at most: the library writes several in any order, and equal runs must give equal files.
    metadata = {"aliases": json.dumps(others)} if others and aliases else {"format": "pt"}
    save_file(distinct, str(path), metadata=metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What :func:`save_tensors` wrote, under all names.

    Raises:
        CheckpointError: the file is damaged or missing.
    """
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {_reason(error)}. Delete its checkpoint.") from error
    return {**tensors, **{name: tensors[kept] for name, kept in aliases.items()}}


def _check_finite(weights: Mapping[str, Tensor], step: int) -> None:
    for name, tensor in weights.items():
        if isinstance(tensor, nn.Parameter) and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"after step {step} the weight {name} is not finite, so no checkpoint is written. Lower "
                "optim.lr or set optim.grad_clip, and start again from the newest checkpoint."
            )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return "nothing"
    return f"{len(listed)} tensors ({', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''})"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
