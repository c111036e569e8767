"""Write the figures of a run: ``metrics.jsonl``, ``ledger.jsonl``, and the means that go into a line."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlkit.errors import DataError, VlkitError
from vlkit.io.disk_errors import named
from vlkit.io.files import atomic_write
from vlkit.io.json import json_text, parse_json
from vlkit.runner.distributed import World

logger = logging.getLogger(__name__)

WAITED = "waited_for_data"
"""Name of the seconds of a step spent waiting for data, mean over processes."""
_SHOWN = 50  # bad samples that one call logs by name


class NonFinite(VlkitError):
    """A loss or gradient norm is NaN or infinite.

    Args:
        step: the first such step, counted from 1.
        name: which value.
        value: what it is.
        sample_ids: the samples of that step, of all processes.
    """

    def __init__(self, step: int, name: str, value: float, sample_ids: list[str]):
        self.step, self.name, self.value, self.sample_ids = step, name, value, sample_ids
        shown = ", ".join(sample_ids[:8]) + (", ..." if len(sample_ids) > 8 else "")
        super().__init__(
            f"{name} is {value} at step {step}. The batch of this step: {shown} (all of them in "
            "nonfinite.json). Lower optim.lr, set optim.grad_clip, warm up longer, or inspect these samples; "
            "the run can be resumed from the newest checkpoint, which is older than this step."
        )


class MetricWindow:
    """Average losses and metrics between two lines of the log. Tensors are read late, so no step waits for the device.

    Each process adds its part of a value; the sum of the parts over all processes is the value.

    Args:
        world: the processes.
    """

    def __init__(self, world: World):
        self.world = world
        self._pending: list[tuple[int, dict[str, Tensor], list[str]]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, step: int, values: dict[str, Tensor], sample_ids: list[str]) -> None:
        """Add the values of a step (counted from 1) without reading them."""
        self._pending.append((step, values, sample_ids))

    def settle(self) -> None:
        """Read the values that were added.

        Raises:
            NonFinite: a loss or the gradient norm is not finite, in any process.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        names = [sorted(values) for _, values, _ in pending]
        parts = [values[name].float() for (_, values, _), each in zip(pending, names) for name in each]
        totals = iter(self.world.sum(torch.stack(parts).tolist()))
        for (step, _, sample_ids), each in zip(pending, names):
            for name, total in zip(each, totals):
                if not math.isfinite(total) and not name.startswith("metrics/"):
                    raise NonFinite(step, name, total, self.world.gather(sample_ids))
                self._sums[name] = self._sums.get(name, 0.0) + total
                self._counts[name] = self._counts.get(name, 0) + 1

    def close(self) -> dict[str, float]:
        """Return the means and start a new window."""
        self.settle()
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return sums and counts so far; call :meth:`settle` first."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the window of a checkpoint."""
        self._pending, self._sums, self._counts = [], dict(state["sums"]), dict(state["counts"])


def read_lines(path: Path, required: Mapping[str, type] | None = None) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; a missing file is empty. Damaged lines are skipped with one warning.

    Args:
        path: of the file.
        required: keys that a line must have, with their types.

    Raises:
        FileError: the file cannot be read.
    """
    with named(path, "read"):
        content = path.read_bytes() if os.path.lexists(path) else b""
    lines, damaged = [], []
    for number, text in enumerate(content.split(b"\n"), 1):
        line = _parsed(text, path, required or {})
        if line is not None:
            lines.append(line)
        elif text.strip():
            damaged.append(number)
    if damaged:
        logger.warning(
            "%s: %d damaged or half-written line%s left out (line %s).",
            path,
            len(damaged),
            " is" if len(damaged) == 1 else "s are",
            ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else ""),
        )
    return lines


def _parsed(text: bytes, path: Path, required: Mapping[str, type]) -> dict[str, Any] | None:
    """Parse a line; None for anything but an object with the required keys."""
    try:
        line = parse_json(text, str(path)) if text.strip() else None
    except DataError:
        return None
    fits = isinstance(line, dict) and all(type(line.get(key)) is kind for key, kind in required.items())
    return line if fits else None


def append_line(path: Path, content: Any) -> None:
    """Append an object to a JSON-lines file, on its own line even if the last one is half written.

    Raises:
        FileError: it cannot be written; the file is cut to its old length where that is possible.
    """
    with named(path), open(path, "ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = json_text(content).encode() + b"\n"
        if size:
            file.seek(size - 1)
            data = data if file.read(1) == b"\n" else b"\n" + data
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


class MetricsFile:
    """``metrics.jsonl``: one object per line, each with its ``step``. Methods raise FileError."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Append a line."""
        append_line(self.path, line)

    def sync(self) -> None:
        """Flush the lines to disk, before a checkpoint that relies on them."""
        with named(self.path):
            if self.path.exists():
                with self.path.open("r+") as file:
                    os.fsync(file.fileno())

    def cut_back(self, step: int, evaluated: bool) -> None:
        """Remove the lines after ``step`` and damaged ones.

        Args:
            step: of the checkpoint.
            evaluated: whether the checkpoint holds the scores of its step; otherwise they are written again later.
        """
        if os.path.lexists(self.path):
            known = step + 1 if evaluated else step
            found = read_lines(self.path, {"step": int})
            kept = [line for line in found if line["step"] < (known if "eval" in line else step + 1)]
            with atomic_write(self.path, "w") as file:
                file.write("".join(json_text(line) + "\n" for line in kept))


class Ledger:
    """``ledger.jsonl``: samples that could not be used, each source once.

    Attributes:
        count: number of sources.
    """

    def __init__(self, path: Path):
        self.path = path
        self._sources = {line["source"] for line in read_lines(path, {"source": str})}

    @property
    def count(self) -> int:
        return len(self._sources)

    def add(self, found: Sequence[tuple[str, str, Any]]) -> None:
        """Add (source, reason, where).

        Raises:
            FileError: it cannot be written.
        """
        new = 0
        for source, reason, where in found:
            if source in self._sources:
                continue
            self._sources.add(source)
            new += 1
            if new <= _SHOWN:
                logger.warning("skipped %s: %s", source, reason)
            elif new == _SHOWN + 1:
                logger.warning("more samples are skipped; all are named in %s", self.path)
            append_line(self.path, {"source": source, "reason": reason, "where": where})
