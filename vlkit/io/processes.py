"""Start child processes that end with their parent, and identify processes of this machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
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


_NAME = re.compile(r".*-(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}")


def owner_name() -> str:
    """Return a new name that contains this host, its boot, this process and when it started; safe as the name of a
    file."""
    host = re.sub(r"[^A-Za-z0-9]+", "_", platform.node())[:40] or "host"
    pid = os.getpid()
    return f"{host}-{_machine()}-{pid}-{_start_of(pid) or 0}-{secrets.token_hex(4)}"


def is_of_this_machine(name: str) -> bool:
    """Return whether a name is of a process whose life or death can be seen from here: same boot, same numbers."""
    parts = _NAME.fullmatch(name)
    return parts is not None and parts["machine"] == _machine() and os.name != "nt"


def is_this_process(name: str) -> bool:
    """Return whether a name was given to this process."""
    return name.rpartition("-")[0] == owner_name().rpartition("-")[0]


def is_dead(name: str) -> bool:
    """Return whether the process of this name surely runs no more; False for all that cannot be known from here."""
    parts = _NAME.fullmatch(name)
    if parts is None or parts["machine"] != _machine() or os.name == "nt":  # there os.kill would end it
        return False
    pid = int(parts["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is there, and another user's
        pass
    start = _start_of(pid)
    return start is not None and str(start) != parts["start"]


@functools.cache
def _machine() -> str:
    """Identify this boot of this host and its PID namespace: containers do not see each other."""
    facts = [platform.node()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _start_of(pid: int) -> int | None:
    """Return when a process started, in ticks after the boot; None: unknown. It distinguishes processes of one number.

    A zombie, which has ended and was not waited for by its parent yet, gives -1: it is none of those that run.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] in "ZX" else int(fields[19])
