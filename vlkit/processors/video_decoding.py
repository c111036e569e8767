"""Decode frames of video files in a process of its own: ``python -m vlkit.processors.video_decoding``.

decord hangs on some files for ever and holds the interpreter lock meanwhile, and no decoder of foreign files is safe
from crashing: both can be survived from another process only. :mod:`vlkit.processors.video_reader` starts this one
and talks to it: a line of JSON asks, a line of JSON followed by raw pixels answers, until the input ends.

It imports neither torch nor anything else that takes long to start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from vlkit.errors import ConfigError, did_you_mean

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

SAMPLINGS = ("even", "original")
DECODERS = ("decord", "av")
"""By their import names, in the order in which they are tried."""


# Time and line of decord's own source.
_DECORD_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+: ")

Frames = dict[int, np.ndarray]
"""Pixels uint8 [H, W, 3] of some frames, by index."""


def frame_indices(count: int, frames: int, sampling: str = "even") -> list[int]:
    """Choose the indices of ``frames`` frames of a video that has ``count``.

    "even" cuts the video into ``frames`` parts of equal length and takes the middle of each: the i-th index is
    floor((i + 1/2) * count / frames), so the end of the video counts as much as its start, and a single frame is the
    middle one. A video with fewer frames repeats some, in order.

    "original" is the rule of the original evaluation: i * floor(count / frames), which starts at the first frame and
    leaves out up to ``frames`` - 1 at the end; a video with fewer frames gives its first one ``frames`` times. (For
    some lengths rounding gave the original one index more, with which clips cannot be batched; it is left out.)
    Paper: 5.6.

    Args:
        count: at least 1.
        frames: at least 1.
        sampling: "even" or "original".

    Raises:
        ConfigError: another ``sampling``, or a number below 1.
    """
    check_sampling(frames, sampling)
    if count < 1:
        raise ConfigError(f"a video of {count} frames has none to choose.")
    if sampling == "original":
        return [i * (count // frames) for i in range(frames)]
    return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]


def check_sampling(frames: int, sampling: str) -> None:
    """Raise ConfigError unless ``frames`` is 1 or more and ``sampling`` one of :data:`SAMPLINGS`."""
    problems = sampling_problems(frames, sampling)
    if problems:
        raise ConfigError(problems)


def sampling_problems(frames: int, sampling: str) -> list[str]:
    """List the errors that :func:`check_sampling` raises."""
    problems = []
    if frames < 1:
        problems.append(f"frames: {frames} given; it must be 1 or more.")
    if sampling not in SAMPLINGS:
        known = " or ".join(map(repr, SAMPLINGS))
        problems.append(f"sampling: {sampling!r} given; {known} allowed.{did_you_mean(sampling, SAMPLINGS)}")
    return problems


class Doubtful(Exception):
    """The decoded frames may be wrong; another decoder decides."""


def decode_with_decord(path: str, frames: int, sampling: str, size: int | None, doubt: bool) -> tuple[int, Frames]:
    """Return the number of frames of the video, and those that ``sampling`` chooses.

    Args:
        path: of the file.
        frames, sampling: see :func:`frame_indices`.
        size: pixels a side that the decoder scales to; None: as they are.
        doubt: whether the frames are refused when the last is equal to the one before it. Of a file that claims more
            frames than it holds, decord repeats the last one (and hangs near the claimed end); but so does a video
            of a still picture.

    Raises:
        Doubtful: the last frames are equal.
    """
    import decord

    scaled = {} if size is None else {"width": size, "height": size}
    reader = decord.VideoReader(path, num_threads=1, **scaled)
    count = len(reader)
    wanted = sorted(set(frame_indices(count, frames, sampling))) if count else []
    if not wanted:
        return count, {}
    before = max(wanted[-1] - 1, 0)
    asked = sorted({*wanted, before})
    # One batch, after which the reader is dropped: an idle one decodes ahead, hundreds of megabytes.
    found = dict(zip(asked, reader.get_batch(asked).asnumpy()))
    if doubt and before < wanted[-1] and np.array_equal(found[before], found[wanted[-1]]):
        raise Doubtful("its frames repeat, so it may hold fewer than it claims")
    return count, {i: found[i] for i in wanted}


def decode_with_av(path: str, frames: int, sampling: str, size: int | None) -> tuple[int, Frames]:
    """Decode with PyAV. Where the file holds fewer frames than it claims, those that it holds count."""
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        times, keys = _times(container)
        if times:
            indices = sorted(set(frame_indices(len(times), frames, sampling)))
            found = _at_times(container, [times[i] for i in indices], keys)
            if len(found) == len(indices):
                return len(times), {i: _pixels(frame, size) for i, frame in zip(indices, found)}
    # Times are missing or do not hold: what can be decoded is counted, then chosen from.
    count = sum(1 for _ in _all_frames(path))
    if count == 0:
        return 0, {}
    wanted = set(frame_indices(count, frames, sampling))
    return count, {i: _pixels(frame, size) for i, frame in enumerate(_all_frames(path)) if i in wanted}


def _times(container: Any) -> tuple[list[int], list[int]]:
    """Return the times of all frames and of the key frames, ascending; none if a packet lacks its time."""
    import av

    times, keys = [], []
    try:
        for packet in container.demux(container.streams.video[0]):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                return [], []
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    except av.FFmpegError:  # cut off: what can be decoded is found out by decoding
        return [], []
    return sorted(times), sorted(keys)


def _at_times(container: Any, times: Sequence[int], keys: Sequence[int]) -> list[Any]:
    """Return the frames shown at exactly these ascending times, from the nearest key frame each; fewer where one is not
    there."""
    import av

    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    found: list[Any] = []
    decoded: Iterator[Any] = iter(())
    reached = None
    try:
        for time in times:
            key = bisect_right(keys, time)
            if reached is None or (key and keys[key - 1] > reached):
                container.seek(keys[key - 1] if key else time, stream=stream)
                decoded = container.decode(stream)
            frame = next((frame for frame in decoded if frame.pts is not None and frame.pts >= time), None)
            if frame is None or frame.pts != time:
                break
            found.append(frame)
            reached = time
    except av.FFmpegError:
        pass
    return found


def _all_frames(path: str) -> Iterator[Any]:
    """Yield the frames from the first to the last that can be decoded."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        packets = container.demux(stream)
        with contextlib.suppress(av.FFmpegError):  # where the file is cut off
            for packet in packets:
                with contextlib.suppress(av.FFmpegError):  # a damaged packet; those after it may be good
                    yield from packet.decode()


def _pixels(frame: Any, size: int | None) -> np.ndarray:
    """uint8 [H, W, 3], upright."""
    scaled = {} if size is None else {"width": size, "height": size, "interpolation": "BICUBIC"}
    pixels = frame.reformat(format="rgb24", **scaled).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(getattr(frame, "rotation", 0) / 90)))


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the reply to one request: a header, and the pixels that follow it."""
    path, frames, sampling, size = (request[key] for key in ("path", "frames", "sampling", "size"))
    try:
        if request["decoder"] == "decord":
            count, found = decode_with_decord(path, frames, sampling, size, request["doubt"])
        else:
            count, found = decode_with_av(path, frames, sampling, size)
        order = frame_indices(count, frames, sampling) if count else []
        missing = [i for i in order if i not in found]
        if missing or not order:
            return {"error": f"of {count} frames the chosen {missing} are missing" if order else "it has no frames"}, []
        shapes = [found[i].shape for i in found]
        return {"order": [list(found).index(i) for i in order], "shapes": shapes}, list(found.values())
    except Exception as error:  # decoders raise what they like; whatever it is, this file gives no frames
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return {"error": _DECORD_PLACE.sub("", first)}, []


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""
    for number, line in enumerate(requests):
        request = json.loads(line)
        if number == 0:
            _limit_memory(request)
        _die_after(request["limit"])
        header, pixels = answer(request)
        _die_after(0)
        replies.write(json.dumps(header).encode() + b"\n")
        for each in pixels:
            replies.write(each.tobytes())
        replies.flush()


def _limit_memory(request: dict[str, Any]) -> None:
    """Let decoders fail where they ask for much more than they have when they are loaded: sizes in a damaged file are
    of any number."""
    if resource is None or not os.path.exists("/proc/self/statm"):
        return
    with contextlib.suppress(ImportError):
        __import__(request["decoder"])
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + request["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _die_after(seconds: float) -> None:
    """Have the system end this process, even while native code holds the interpreter lock; 0: no longer. So nothing
    is left behind when the process that asked is gone."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds)


def main() -> None:
    """Serve standard input and output."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not do so into the replies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends the input
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
