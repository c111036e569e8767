"""Read frames of video files through a process that may hang or crash without harm.

decord is asked first, PyAV where decord is absent, fails, or does not finish. A look at index and packets beforehand
cannot replace the time limit: those of files on which decord hangs are like any other, and only decoding shows how many
frames there are.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from vlkit.errors import BadSample, MissingDependency
from vlkit.processors.file_kinds import file_size
from vlkit.processors.video_decoding import DECODERS, check_sampling

logger = logging.getLogger(__name__)

TIME_LIMITS = {"decord": 15.0, "av": 120.0}
"""Seconds for one video. decord needs well under one; where it is just slow, PyAV has more time."""
MEMORY_LIMIT = 4_000_000_000
"""Bytes that decoding a video may take: sixteen frames of 7680 x 4320 pixels need half of it."""


class VideoReader:
    """One decoding process, started at the first video and again after each time that it had to be ended.

    Args:
        limits: seconds for one video, by decoder.
        memory: bytes for one video; where the system has no such limit, it is not kept.
    """

    def __init__(self, limits: dict[str, float] | None = None, memory: int = MEMORY_LIMIT):
        self.limits, self.memory = {**TIME_LIMITS, **(limits or {})}, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._hung: set[str] = set()

    def read(
        self, path: str | os.PathLike[str], frames: int, sampling: str = "even", size: int | None = None
    ) -> list[np.ndarray]:
        """Read frames of a video file.

        Args:
            path: of the file.
            frames, sampling: see :func:`~vlkit.processors.video_decoding.frame_indices`.
            size: pixels a side that the decoder scales to, as the original does; None: as they are.

        Returns:
            ``frames`` arrays, uint8 [H, W, 3].

        Raises:
            BadSample: no decoder gives frames; says why.
            MissingDependency: there is no decoder.
        """
        check_sampling(frames, sampling)
        name = os.fspath(path)
        _check_file(name)
        decoders = [each for each in DECODERS if importlib.util.find_spec(each) is not None]
        if not decoders:
            raise MissingDependency("av", "Reading video files", "video")
        request = {"path": os.path.abspath(name), "frames": frames, "sampling": sampling, "size": size}
        request["doubt"], request["memory"] = "av" in decoders, self.memory
        reasons = []
        for decoder in decoders:
            if decoder == "decord" and request["path"] in self._hung:
                reasons.append("decord did not finish before")
                continue
            found = self._ask({**request, "decoder": decoder, "limit": self.limits[decoder]})
            if not isinstance(found, str):
                return found
            logger.debug("%s: %s: %s", name, decoder, found)
            reasons.append(f"{decoder}: {found}")
        advice = "" if "av" in decoders else " (pip install 'vlkit[video]' reads more files)"
        raise BadSample(name, f"cannot be decoded: {'; '.join(reasons)}{advice}")

    def close(self) -> None:
        """End the process; the next video starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]

    def _ask(self, request: dict[str, Any]) -> list[np.ndarray] | str:
        """Return the frames, or the reason why there are none."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            process = self._process
            timer = threading.Timer(request["limit"], process.kill)
            start = time.monotonic()
            timer.start()
            try:
                return _exchange(process, request)
            except (OSError, EOFError, ValueError):
                self.close()
                if time.monotonic() - start >= request["limit"]:
                    logger.warning("%(path)s: %(decoder)s has not finished after %(limit)g s and is ended", request)
                    if request["decoder"] == "decord":
                        self._hung.add(request["path"])
                    return f"not finished after {request['limit']:g} s"
                return f"the decoding process ended with code {process.returncode}"
            except BaseException:  # Ctrl-C: the rest of the reply would be taken for that to the next request
                self.close()
                raise
            finally:
                timer.cancel()


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vlkit.processors.video_decoding"]
    # What is importable here is so there, wherever that process starts.
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders report every damaged block
        env={**os.environ, "PYTHONPATH": paths},
    )


def _exchange(process: subprocess.Popen[bytes], request: dict[str, Any]) -> list[np.ndarray] | str:
    """Send a request and read the reply.

    Raises:
        OSError, EOFError, ValueError: the process ended meanwhile.
    """
    ask, reply = process.stdin, process.stdout
    assert ask is not None  # both are pipes
    assert reply is not None
    ask.write(json.dumps(request).encode() + b"\n")
    ask.flush()
    header = json.loads(reply.readline())
    if "error" in header:
        return header["error"]
    distinct = []
    for shape in header["shapes"]:
        data = reply.read(int(np.prod(shape)))
        distinct.append(np.frombuffer(data, np.uint8).reshape(shape))
    return [distinct[place] for place in header["order"]]


def _check_file(name: str) -> None:
    try:
        size = file_size(name, "a video file")
    except (OSError, ValueError) as error:
        raise BadSample(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if size == 0:
        raise BadSample(name, "the file is empty (0 bytes)")


_readers: dict[int, VideoReader] = {}


def read_video(
    path: str | os.PathLike[str], frames: int, sampling: str = "even", size: int | None = None
) -> list[np.ndarray]:
    """:meth:`VideoReader.read` of this process's reader: each worker has its own."""
    pid = os.getpid()
    if pid not in _readers:
        _readers[pid] = VideoReader()
        atexit.register(_readers[pid].close)
    return _readers[pid].read(path, frames, sampling, size)
