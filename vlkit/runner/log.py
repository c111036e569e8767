"""What a run writes while it goes on: ``metrics.jsonl``, ``ledger.jsonl``, a progress bar."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlkit.io import atomic_write

logger = logging.getLogger(__name__)


def json_line(content: Any) -> str:
    """One line of JSON; what JSON cannot say (nan, infinity) becomes null."""
    return json.dumps(finite_or_none(content), allow_nan=False)


def finite_or_none(content: Any) -> Any:
    """``content`` with None in place of numbers that are not finite."""
    if isinstance(content, dict):
        return {key: finite_or_none(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite_or_none(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; nothing if there is none. What is half written is passed over."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            logger.warning("%s: a half-written line is passed over.", path)
    return lines


class MetricsFile:
    """``metrics.jsonl``: one object a line, each with its ``step``."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Add a line."""
        with self.path.open("a") as file:
            file.write(json_line(line) + "\n")

    def sync(self) -> None:
        """Put the lines on the disk; before a checkpoint that counts on them."""
        if self.path.exists():
            with self.path.open("r+") as file:
                os.fsync(file.fileno())

    def cut_back(self, step: int, evaluated: bool) -> None:
        """Forget the lines after ``step``, and one that a killed process left half written.

        Args:
            step: of the checkpoint.
            evaluated: whether the checkpoint knows the scores of its step; otherwise they will be written again.
        """
        if self.path.exists():
            known = step + 1 if evaluated else step
            kept = [line for line in read_lines(self.path) if line["step"] < (known if "eval" in line else step + 1)]
            with atomic_write(self.path, "w") as file:
                file.write("".join(json_line(line) + "\n" for line in kept))


class Ledger:
    """``ledger.jsonl``: the samples that could not be used, each source once.

    Attributes:
        count: sources listed.
    """

    def __init__(self, path: Path):
        self.path = path
        self._sources = {line["source"] for line in read_lines(path)}

    @property
    def count(self) -> int:
        return len(self._sources)

    def add(self, found: Sequence[tuple[str, str, Any]]) -> None:
        """Note (source, reason, where it was met)."""
        for source, reason, where in found:
            if source in self._sources:
                continue
            self._sources.add(source)
            logger.warning("skipped %s: %s", source, reason)
            with self.path.open("a") as file:
                file.write(json_line({"source": source, "reason": reason, "where": where}) + "\n")


class Bar:
    """Progress with rate and time left on a terminal; without one, log lines do.

    Args:
        steps: of the run.
        done: of them before.
    """

    def __init__(self, steps: int, done: int):
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.update()

    def report(self, text: str) -> None:
        """Show figures: beside the bar, or as a log line."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            logger.info("%s", text)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.close()
