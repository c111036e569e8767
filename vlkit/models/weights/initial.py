"""Weights that a new model starts from: found by path, identified by content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vlkit.io.checkpoint_files import is_checkpoint, verify
from vlkit.io.fetch import fetch
from vlkit.io.files import sha256
from vlkit.models.weights.files import weights_file
from vlkit.models.weights.load import build_with_weights


@dataclass(frozen=True)
class InitialWeights:
    """Weights that are loaded into a new model.

    Args:
        source: path, address or card, as it was given.
        file: returns the local file; downloads it first if necessary.
        adapter: naming scheme of the tensors; None: detected.
    """

    source: str
    file: Callable[[], Path]
    adapter: str | None = None

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        """Build a model on the CPU with these weights.

        Args:
            make: returns the model.

        Raises:
            CheckpointError: the weights cannot be read, or are of another model.
        """
        return build_with_weights(make, self.file(), self.adapter)[0]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        return sha256(self.file())

    def facts(self) -> dict[str, Any]:
        """Return the entry for the record of a run."""
        return {"source": self.source, "file": str(self.file()), "sha256": self.fingerprint()}

    def step(self) -> int:
        """Return the optimizer step of a checkpoint of vlkit; 0 for other files."""
        folder = self.file().parent
        return verify(folder, [], ["step"])["step"] if is_checkpoint(folder) else 0


def from_path(source: str | Path) -> InitialWeights:
    """Find weights in a file, a checkpoint folder or the folder of a run (its best, else newest checkpoint), or at an
    address.

    Raises:
        VlkitError: there are none.
    """
    text = str(source)
    local = text.startswith(("package:", "file:"))  # addresses of files and of folders
    file = fetch(text) if "://" in text and not local else weights_file(text)
    return InitialWeights(text, lambda: file)


def from_run(folder: Path) -> InitialWeights | None:
    """Find the best (else newest) weights of the run in ``folder``; None: it has written none."""
    if not any((folder / "checkpoints").glob("step_*")):
        return None
    return from_path(folder)
