"""Record the files whose functions are called, in this process and, as ``sitecustomize``, in every process it starts.

It imports nothing but the standard library. :mod:`benchmarks.walk` copies it to where Python finds ``sitecustomize``.
"""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType

ROOT, LOG = "VLKIT_WALK_ROOT", "VLKIT_WALK_LOG"
"""Environment variables: the folder whose files count, and the file that their names are appended to."""


def install() -> None:
    """Record every file below ``ROOT`` once; imports alone do not count."""
    root, log, seen = os.environ[ROOT], os.environ[LOG], set[str]()

    def record(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event != "call" or name in seen or not name.startswith(root) or frame.f_code.co_name == "<module>":
            return
        seen.add(name)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, (name[len(root) :] + "\n").encode())
        os.close(descriptor)

    sys.setprofile(record)
    threading.setprofile(record)


def remove() -> None:
    """Stop recording in this process."""
    sys.setprofile(None)
    threading.setprofile(None)


if __name__ == "sitecustomize" and ROOT in os.environ:
    install()
