"""What stages that write or read the output of CapFilt share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlkit.capfilt.place import Place
from vlkit.capfilt.shard_output import DONE
from vlkit.capfilt.stored import StoredOutput
from vlkit.config.load import Config
from vlkit.errors import VlkitError
from vlkit.jobs.awaited import Awaited
from vlkit.pipeline.stages.base import digest


def output_digest(folder: Path) -> str:
    """What identifies an output: its manifests, which hold the checksums of all files."""
    return digest((folder / DONE).glob("*.json"))


def shares(summary: Mapping[str, Any]) -> dict[str, float]:
    """How many images and texts there are, and the shares that were kept."""
    images, texts = summary["images"], summary["texts"]
    found = {"images": images["read"], "images_kept": images["kept"] / max(images["kept"] + images["dropped"], 1)}
    for name, each in texts.items():
        if each["scored"]:
            found |= {f"{name}_texts": each["scored"], f"{name}_kept": each["kept"] / each["scored"]}
    return found


def source_problems(source: str, config: Config, awaited: Awaited) -> list[str]:
    """Whether there is an output at ``source``, which the key of that name gives."""
    if awaited.holds(source):
        return []
    try:
        with Place(source) as place:
            StoredOutput.open(place)
    except VlkitError as error:
        return [f"{config.origin('source')}: {error}"]
    return []
