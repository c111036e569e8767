"""What a run writes step by step: ``metrics.jsonl``, ``ledger.jsonl``, a progress bar."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlkit.errors import DataError
from vlkit.io.disk_errors import named
from vlkit.io.files import atomic_write
from vlkit.io.json_reader import parse_json
from vlkit.io.json_writer import finite_or_none as finite_or_none
from vlkit.io.json_writer import json_text

logger = logging.getLogger(__name__)


def json_line(content: Any) -> str:
    """One line of JSON; what JSON cannot say (nan, infinity) becomes null."""
    return json_text(content)


def read_lines(path: Path, required: Mapping[str, type] | None = None) -> list[dict[str, Any]]:
    """Read the objects of a file of JSON lines; none if there is no file.

    Lines that are half written or otherwise damaged are left out, with one warning.

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
    """The object of a line; None for anything else."""
    try:
        line = parse_json(text, str(path)) if text.strip() else None
    except DataError:
        return None
    fits = isinstance(line, dict) and all(type(line.get(key)) is kind for key, kind in required.items())
    return line if fits else None


def append_line(path: Path, content: Any) -> None:
    """Add a line to a file of JSON lines, on a line of its own even if the last one is half written.

    Raises:
        FileError: it cannot be written; then the file is as it was, as far as that can be done.
    """
    with named(path), open(path, "ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = json_line(content).encode() + b"\n"
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
    """``metrics.jsonl``: one object a line, each with its ``step``."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, line: dict[str, Any]) -> None:
        """Add a line.

        Raises:
            FileError: it cannot be written.
        """
        append_line(self.path, line)

    def sync(self) -> None:
        """Put the lines on the disk; before a checkpoint that counts on them.

        Raises:
            FileError: that fails.
        """
        with named(self.path):
            if self.path.exists():
                with self.path.open("r+") as file:
                    os.fsync(file.fileno())

    def cut_back(self, step: int, evaluated: bool) -> None:
        """Forget the lines after ``step``, and those that are damaged.

        Args:
            step: of the checkpoint.
            evaluated: whether the checkpoint knows the scores of its step; otherwise they will be written again.

        Raises:
            FileError: the file cannot be read or written.
        """
        if os.path.lexists(self.path):
            known = step + 1 if evaluated else step
            found = read_lines(self.path, {"step": int})
            kept = [line for line in found if line["step"] < (known if "eval" in line else step + 1)]
            with atomic_write(self.path, "w") as file:
                file.write("".join(json_line(line) + "\n" for line in kept))


_SHOWN = 50  # samples that are logged at once


class Ledger:
    """``ledger.jsonl``: the samples that could not be used, each source once.

    Attributes:
        count: sources listed.
    """

    def __init__(self, path: Path):
        self.path = path
        self._sources = {line["source"] for line in read_lines(path, {"source": str})}

    @property
    def count(self) -> int:
        return len(self._sources)

    def add(self, found: Sequence[tuple[str, str, Any]]) -> None:
        """Note (source, reason, where it was met).

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


class Bar:
    """Progress with rate and time left on a terminal; without one, log lines do.

    Args:
        steps: of the run; None: not known.
        done: of them before.
    """

    def __init__(self, steps: int | None, done: int):
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """One step more."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._bar.update()

    def report(self, text: str) -> None:
        """Show figures: beside the bar, or as a log line."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.set_postfix_str(text)
        else:
            logger.info("%s", text)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
