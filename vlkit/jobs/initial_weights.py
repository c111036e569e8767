"""Where the weights of a run come from, and what identifies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlkit.config.cards import Weights
from vlkit.config.parts import ModelPart, model_part
from vlkit.errors import ConfigError
from vlkit.io.checkpoint_files import is_checkpoint, verify
from vlkit.io.checksums import sha256
from vlkit.io.files import fetch
from vlkit.models.weights.files import weights_file


@dataclass(frozen=True)
class StartingWeights:
    """Weights that are loaded into a new model.

    Args:
        source: what was named.
        file: gives the local file, fetching it if need be.
        adapter: how its names are read; None: recognized.
    """

    source: str
    file: Callable[[], Path]
    adapter: str | None = None

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.file())

    def facts(self) -> dict[str, Any]:
        """For the record of a run."""
        return {"source": self.source, "file": str(self.file()), "sha256": self.fingerprint()}

    def step(self) -> int:
        """Optimizer steps behind them, where a run of ours wrote them; else 0."""
        folder = self.file().parent
        return verify(folder, [], ["step"])["step"] if is_checkpoint(folder) else 0


def named_card(name: str) -> StartingWeights:
    """The released weights of the card ``<model>/<type>``, which may be another model's than the run's.

    Raises:
        ConfigError: there is no such card, or it has no weights.
    """
    model, _, kind = name.partition("/")
    if not kind:
        raise ConfigError(f"card:{name} given; write card:<model>/<type>, for example card:blip_pretrain/base.")
    found = from_card(model_part({"name": model, "type": kind}))
    return StartingWeights(f"card:{name}", found.file)  # which of its weights fit is seen from their names


def from_path(source: str | Path) -> StartingWeights:
    """Weights in a file, in a checkpoint folder, at an address, or the best (else newest) ones of a run's folder.

    Raises:
        VlkitError: nothing is there.
    """
    text = str(source)
    here = text.startswith(("package:", "file:"))  # of files and of folders
    file = fetch(text) if "://" in text and not here else weights_file(text)
    return StartingWeights(text, lambda: file)


def of_run(folder: Path) -> StartingWeights | None:
    """The best (else newest) weights that a run wrote in ``folder``; None if it wrote none."""
    if not any((folder / "checkpoints").glob("step_*")):
        return None
    return from_path(folder)


def from_card(model: ModelPart) -> StartingWeights:
    """The released weights of a model's card.

    Raises:
        ConfigError: the card has none.
    """
    given = model.card.get("weights")
    if not given:
        card = f"the card {model.name}/{model.type}" if model.type else f"the model {model.name}, which names no card,"
        raise ConfigError(f"{card} has no weights. Give a checkpoint in run.init_from, or leave it out.")
    weights = Weights(**given)
    source = weights.path or str(weights.url)

    def file() -> Path:
        return fetch(source, sha256=weights.sha256, md5=weights.md5)

    return StartingWeights(source, file, weights.adapter or weights.format)
