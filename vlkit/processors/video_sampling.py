"""Which frames of a video are looked at."""

from __future__ import annotations

from vlkit.errors import ConfigError, did_you_mean

SAMPLINGS = ("even", "original")


def frame_indices(count: int, frames: int, sampling: str = "even") -> list[int]:
    """Indices of ``frames`` frames of a video that has ``count``.

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
    """What :func:`check_sampling` would raise."""
    problems = []
    if frames < 1:
        problems.append(f"frames: {frames} given; it must be 1 or more.")
    if sampling not in SAMPLINGS:
        known = " or ".join(map(repr, SAMPLINGS))
        problems.append(f"sampling: {sampling!r} given; {known} allowed.{did_you_mean(sampling, SAMPLINGS)}")
    return problems
