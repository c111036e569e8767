"""What the commands print: log lines, and tables of scores."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence


def is_main() -> bool:
    """Whether this is process 0 of those that ``torchrun`` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "") -> None:
    """Print, in process 0 alone."""
    if is_main():
        print(text, flush=True)


@contextlib.contextmanager
def log_lines() -> Iterator[None]:
    """While entered, what the library logs goes to standard output; of other processes than 0 only warnings."""
    logger = logging.getLogger("vlkit")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if is_main() else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Columns as wide as they must be; the first to the left, the others to the right."""
    lines = [list(header), *map(list, rows)] if header else list(map(list, rows))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))] if lines else []

    def show(line: list[str]) -> str:
        first, *others = zip(line, widths)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()

    shown = [show(line) for line in lines]
    if header:
        shown.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(shown)


def scores_table(scores: Mapping[str, float]) -> str:
    """Scores under ``<set>/<score>`` as a table with a column for each set."""
    sets = list(dict.fromkeys(key.partition("/")[0] for key in scores))
    names = list(dict.fromkeys(key.partition("/")[2] for key in scores))
    rows = [[name, *(number(scores.get(f"{each}/{name}")) for each in sets)] for name in names]
    return table(rows, ["", *sets])


def number(value: float | None) -> str:
    """Four places, or more digits for what is small or large."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
