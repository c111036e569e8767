"""Terminal output of the commands: log lines and tables."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from vlkit.errors import redacted
from vlkit.io.disk_errors import FileError


def is_main() -> bool:
    """Whether this is process 0 of those that ``torchrun`` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def escape_output() -> None:
    """Print characters that the terminal cannot encode, and undecodable bytes of file names, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str = "") -> None:
    """Print in process 0 only.

    Raises:
        SystemExit: the reader has closed the pipe (`vlkit show ... | head`).
        FileError: standard output cannot be written.
    """
    if is_main():
        try:
            print(redacted(text), flush=True)
        except BrokenPipeError:
            give_up_output()
            raise SystemExit(1) from None
        except OSError as error:
            give_up_output()
            raise FileError(f"standard output: {error.strerror or error}.", error.errno) from error


class _Lines(logging.StreamHandler):
    """Print log lines; a closed pipe or terminal and a full disk end no run."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            give_up_output(f"the log cannot be printed any more: {error.strerror or error}. The command continues.")
        else:
            super().handleError(record)


def give_up_output(reason: str = "") -> None:
    """Discard all further output, since standard output cannot be written."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError, ValueError):
        if reason:
            print(reason, file=sys.stderr, flush=True)


class _Redacting(logging.Formatter):
    """Hide credentials of addresses in log lines."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


@contextlib.contextmanager
def log_lines() -> Iterator[None]:
    """While entered, print log lines of the library; of processes other than 0 only warnings."""
    logger = logging.getLogger("vlkit")
    handler = _Lines(sys.stdout)
    handler.setFormatter(_Redacting("%(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if is_main() else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Align columns: the first to the left, the others to the right."""
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
    """Format scores named ``<set>/<score>`` as a table with a column for each set."""
    sets = list(dict.fromkeys(key.partition("/")[0] for key in scores))
    names = list(dict.fromkeys(key.partition("/")[2] for key in scores))
    rows = [[name, *(number(scores.get(f"{each}/{name}")) for each in sets)] for name in names]
    return table(rows, ["", *sets])


def number(value: float | None) -> str:
    """Format with four places, or four digits for very small or large values."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
