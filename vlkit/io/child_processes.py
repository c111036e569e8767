"""Start Python processes that end with the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

ATTACHED = "VLKIT_ATTACHED"
"""Set in the environment of a process that ends when its standard input does."""


def start_child(arguments: Sequence[str], environment: Mapping[str, str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a Python process in a session of its own, so that signals of the terminal do not reach it.

    It has to call :func:`end_with_parent`.

    Args:
        arguments: of the interpreter, such as ``["-m", "vlkit", "train", "run.yaml"]``.
        environment: added to that of this process.
        options: of ``subprocess.Popen``.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        env={**inherited, **environment, ATTACHED: "1"},
        start_new_session=True,
        **options,
    )


def end_with_parent() -> None:
    """Send SIGTERM to this process as soon as the one that started it is gone; do nothing in other processes.

    The standard input is a pipe that nobody writes to: it ends with the process that holds its other side.
    """
    if not os.environ.pop(ATTACHED, ""):
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(0, 1)  # not sys.stdin, whose lock would be held when Python ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
