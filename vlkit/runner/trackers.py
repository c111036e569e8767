"""Copies of the log for TensorBoard and Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlkit.errors import MissingDependency


class Trackers:
    """What a run reports to besides its files; nothing if neither is asked for.

    Args:
        folder: output folder of the run.
        tensorboard: write event files into ``folder/tensorboard``.
        wandb: project of Weights & Biases, or None.
        config: recorded with the run.

    Raises:
        MissingDependency: the package is not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool, wandb: str | None, config: Mapping[str, Any]):
        self._board: Any = None
        self._wandb: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependency("tensorboard", "run.tensorboard", "track") from error
            self._board = SummaryWriter(str(folder / "tensorboard"))
        if wandb:
            try:
                import wandb as package
            except ImportError as error:
                raise MissingDependency("wandb", "run.wandb", "track") from error
            self._wandb = package.init(
                project=wandb, dir=str(folder), name=folder.name, config=dict(config), resume="allow"
            )

    def log(self, line: Mapping[str, Any]) -> None:
        """Pass on a line of ``metrics.jsonl``."""
        flat = _flat(line)
        step = int(flat.pop("step"))
        if self._board is not None:
            for name, value in flat.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def close(self) -> None:
        """Write out what is buffered."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _flat(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}/"))
        elif isinstance(value, (int, float)):
            flat[prefix + key] = value
    return flat
