"""Whether a model fits into the memory of this machine, estimated from its sizes before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from vlkit.errors import ConfigError
from vlkit.models.med import MedConfig
from vlkit.models.vit import VitConfig

_BYTES = 4  # weights are initialized in float32
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_memory(numbers: int, what: str, keys: str) -> None:
    """Raise when ``numbers`` float32 values cannot be held by this machine.

    Without this check the process is ended by the operating system, or torch raises from deep inside.

    Args:
        numbers: how many values will be allocated on the CPU.
        what: to be allocated, for the message.
        keys: the arguments that decide it.

    Raises:
        ConfigError: they need more than all memory of the machine (or of its container).
    """
    memory = machine_memory()
    on_cpu = torch.get_default_device().type == "cpu"
    if on_cpu and memory is not None and numbers * _BYTES > memory:
        raise ConfigError(
            f"{what} would have about {numbers:,} numbers, which is {numbers * _BYTES / 1e9:,.0f} GB; this machine "
            f"has {memory / 1e9:,.0f} GB of memory. Lower {keys}."
        )


def encoder_numbers(vit: VitConfig, med: MedConfig) -> int:
    """Number of weights of one image encoder and one text transformer with cross-attention, estimated."""
    image = 0
    if vit.backbone is None:
        block = (4 + 2 * vit.mlp_ratio) * vit.embed_dim**2
        patches = (vit.image_size // vit.patch_size) ** 2
        image = int(vit.depth * block) + vit.embed_dim * (patches + 3 * vit.patch_size**2)
    width = med.hidden_size
    source = vit.embed_dim if vit.backbone is None else 0
    layer = 6 * width**2 + 2 * width * (source + med.intermediate_size)
    words = (med.vocab_size or 0) + med.max_position_embeddings
    return image + med.num_hidden_layers * layer + words * width


def machine_memory() -> int | None:
    """Bytes of memory that a process can have: all of the machine or the limit of its container; None: unknown."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError, AttributeError):  # not on this platform
        return None
    for file in map(Path, _LIMITS):
        text = file.read_text().strip() if file.is_file() else ""
        found += [int(text)] if text.isdigit() else []
    return min(found)
