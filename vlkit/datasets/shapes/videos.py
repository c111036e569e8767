"""Short toy videos: objects appear, drift and disappear, so that no frame shows all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vlkit.datasets.shapes.captions import distinct
from vlkit.datasets.shapes.questions import Question
from vlkit.datasets.shapes.scene import (
    COLORS,
    EDGE,
    RADIUS,
    SHAPES,
    Mention,
    Scene,
    SceneObject,
    apart,
    article,
    name,
    sample_scene,
)

Track = list[tuple[float, float]]


@dataclass(frozen=True)
class Video:
    """Frames with one or two objects each, of three in all.

    Args:
        frames: one scene per frame.
        objects: all objects in the order in which they appear, at their first place.
    """

    frames: tuple[Scene, ...]
    objects: tuple[SceneObject, ...]


def make_video(rng: np.random.Generator, frames: int = 8) -> Video:
    """Sample a video. Each of three objects is visible in about a third of the frames, one after the other with some
    overlap: a frame shows one or two objects, four evenly spread frames show all.

    Args:
        frames: number of frames, at least 3.

    Raises:
        ValueError: fewer than 3 frames.
    """
    if frames < 3:
        raise ValueError(f"{frames} frames cannot show three objects one after the other: give at least 3")
    scene = sample_scene(rng, 3)
    windows = _windows(rng, frames)
    moving = list(zip(scene.objects, _tracks(scene.objects, windows, rng, frames), windows))
    shown = [
        replace(scene, objects=tuple(_at(o, track[t]) for o, track, (start, stop) in moving if start <= t < stop))
        for t in range(frames)
    ]
    return Video(tuple(shown), tuple(_at(o, track[start]) for o, track, (start, _) in moving))


def _at(thing: SceneObject, center: tuple[float, float]) -> SceneObject:
    return replace(thing, x=center[0], y=center[1])


def video_captions(video: Video, rng: np.random.Generator, count: int = 3) -> list[str]:
    """Return ``count`` different captions that name every object of the video, some in the order of appearance."""
    return distinct(lambda: _caption(video, rng), count)


def ask_video(video: Video, rng: np.random.Generator) -> Question:
    """Sample a question that only some frames answer."""
    thing = video.objects[int(rng.integers(3))]
    if rng.random() < 0.3:
        found = bool(rng.random() < 0.5)
        look = (thing.color, thing.shape) if found else _absent(video, thing, rng)
        return Question(f"is there {article(' '.join(look))}?", "yes" if found else "no", "exist")
    for asked, given in (("color", "shape"), ("shape", "color")):
        if sum(getattr(o, given) == getattr(thing, given) for o in video.objects) == 1:
            return Question(f"what {asked} is the {getattr(thing, given)}{_ONE[given]}?", getattr(thing, asked), asked)
    return Question("how many shapes appear?", str(len(video.objects)), "count")


_ONE = {"shape": "", "color": " one"}


def _absent(video: Video, thing: SceneObject, rng: np.random.Generator) -> tuple[str, str]:
    """Sample a color and shape that no object of the video has, one of them from ``thing``."""
    while True:
        look = (COLORS[int(rng.integers(len(COLORS)))], thing.shape)
        if rng.random() < 0.5:
            look = (thing.color, SHAPES[int(rng.integers(len(SHAPES)))])
        if all((o.color, o.shape) != look for o in video.objects):
            return look


def _caption(video: Video, rng: np.random.Generator) -> str:
    things = video.objects
    ordered = bool(rng.random() < 0.5)
    order = range(3) if ordered else rng.permutation(3).tolist()
    a, b, c = (article(name(Mention(things[i].color, things[i].shape))) for i in order)
    if not ordered:
        return f"{a}, {b} and {c}"
    return f"{a}, then {b}, then {c}" if rng.random() < 0.5 else f"first {a}, then {b}, then {c}"


def _windows(rng: np.random.Generator, frames: int) -> list[tuple[int, int]]:
    """Sample the visible frames [start, stop) of each object; together they cover the video."""
    first, second = frames // 3, 2 * frames // 3
    overlap = int(rng.integers(frames // 8 + 1))
    return [(0, min(first + overlap, second)), (first, min(second + overlap, frames)), (second, frames)]


def _tracks(
    objects: tuple[SceneObject, ...], windows: list[tuple[int, int]], rng: np.random.Generator, frames: int
) -> list[Track]:
    """Sample straight paths on which objects that are visible together keep apart."""
    tracks: list[Track] = []
    while len(tracks) < len(objects):
        i = len(tracks)
        radius = RADIUS[objects[i].size]
        low, high = radius + EDGE, 1 - radius - EDGE
        (x0, y0), (x1, y1) = rng.uniform(low, high, (2, 2)).tolist()
        steps = [t / (frames - 1) for t in range(frames)]
        track = [(x0 + (x1 - x0) * s, y0 + (y1 - y0) * s) for s in steps]
        if all(
            apart(track[t], radius, tracks[j][t], RADIUS[objects[j].size])
            for j in range(i)
            for t in range(max(windows[i][0], windows[j][0]), min(windows[i][1], windows[j][1]))
        ):
            tracks.append(track)
    return tracks
