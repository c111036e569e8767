"""What this machine can do at most, measured beside everything else: matrix products and reading memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import Row, seconds
from benchmarks.peers import DTYPES

# Rows, depth and columns of the products: squares, and the feed-forward layer of ViT-B over four images of 384 pixels.
_SHAPES = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (2308, 768, 3072)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (36928, 768, 3072)),
}
_TINY = ((256, 256, 256),)
_SECONDS = 0.4
_BYTES = 2**28


def measure_machine(
    device: str = "cpu", dtypes: Sequence[str] = ("fp32", "bf16"), size: str = "base"
) -> dict[str, Any]:
    """Names and limits of the device at this process's number of threads.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        dtypes: of the products.
        size: "tiny" measures small products only, to see that it runs.

    Returns:
        ``device`` (its name), ``threads``, ``torch`` (version), ``matrix_gflops`` (dtype to GFLOP/s of the best
        ``torch.mm``), ``memory_gb_s`` (10^9 bytes/s that the sum of 256 MiB reads).
    """
    kind = torch.device(device).type
    shapes = _TINY if size == "tiny" else _SHAPES["cuda" if kind == "cuda" else "cpu"]
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matrix_gflops": {name: round(max(_product(shape, device, name) for shape in shapes), 1) for name in dtypes},
        "memory_gb_s": round(_reading(device), 1),
    }


def device_name(device: str = "cpu") -> str:
    """The model of the CPU or GPU, as the system calls it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def headline(machine: dict[str, Any]) -> str:
    """What stands above the table."""
    products = ", ".join(f"{value:.0f} GFLOP/s {name}" for name, value in machine["matrix_gflops"].items())
    return (
        f"{machine['device']}, threads: {machine['threads']}, torch {machine['torch']}\n"
        f"Limits measured in this run: matrix products {products}; memory read at {machine['memory_gb_s']:.1f} GB/s"
    )


def with_share(row: Row, machine: dict[str, Any]) -> Row:
    """The row, which says the share of the matrix limit where its operations are counted."""
    limit = machine["matrix_gflops"].get(row.dtype)
    if row.gflops is None or not limit:
        return row
    share = f"{row.gflops / limit:.0%} of the matrix limit"
    return replace(row, note=f"{row.note}; {share}" if row.note else share)


def _product(shape: tuple[int, int, int], device: str, dtype: str) -> float:
    """GFLOP/s of ``torch.mm``."""
    rows, depth, columns = shape
    left = torch.randn(rows, depth, device=device).to(DTYPES[dtype])
    right = torch.randn(columns, depth, device=device).to(DTYPES[dtype]).t()  # as the weight of a linear layer lies
    out = torch.empty(rows, columns, device=device, dtype=DTYPES[dtype])
    return 2e-9 * rows * depth * columns / _least(lambda: torch.mm(left, right, out=out))


def _reading(device: str) -> float:
    """10^9 bytes/s."""
    data = torch.ones(_BYTES // 4, device=device)
    return 1e-9 * _BYTES / _least(data.sum)


def _least(run: Callable[[], Any]) -> float:
    """Seconds of the fastest run."""
    run()
    found, end = [seconds(run)], time.monotonic() + _SECONDS
    while time.monotonic() < end:
        found.append(seconds(run))
    return min(found)
