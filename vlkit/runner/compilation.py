"""``torch.compile`` of the parts of a model that gain by it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import Any

import torch
from torch import nn

from vlkit.errors import ConfigError


def compile_model(model: nn.Module, device: torch.device, backend: str = "inductor") -> None:
    """Compile the blocks that ``model.image_blocks()`` lists, in place; parameter names stay.

    They are the same code on the same shapes in every step, so one of them is compiled for all, once for training and
    once for evaluation. Packed texts have another length in every step, and their plans are made on the host: that side
    stays as it is. A model without that method is compiled as a whole.

    Args:
        model: on ``device``; before activation checkpointing and before it is wrapped for several processes.
        device: where it runs.
        backend: of torch.compile.

    Raises:
        ConfigError: this machine has no compiler for the device.
    """
    if backend == "inductor":
        _check_compiler(device)
    if not hasattr(model, "image_blocks"):
        model.compile(backend=backend)
        return
    blocks: list[Any] = model.image_blocks()  # type: ignore[operator]
    for block in blocks:
        # The forward alone: hooks of FSDP run outside of the compiled code.
        block.forward = torch.compile(block.forward, backend=backend)


def _check_compiler(device: torch.device) -> None:
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("run.compile is true, which needs Triton on a GPU: pip install triton, or set it to false.")
    default = "clang++" if sys.platform == "darwin" else "g++"
    name, given = ("CC", "gcc") if device.type == "cuda" else ("CXX", default)
    compiler = os.environ.get(name, given)
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"run.compile is true, but this machine has no compiler {compiler!r}: install one (Debian: apt install "
            f"build-essential), name another in the environment variable {name}, or set run.compile to false."
        )
