"""Scenes that the tests of this folder share."""

from __future__ import annotations

from vlkit.datasets.shapes.scene import Background, Scene, SceneObject, sample_scene, stream

PLAIN = Background("plain", 0, 0)

# A large red circle at the upper left, a small blue star to the right of it and lower, a large red ring at the bottom.
THREE = Scene(
    (
        SceneObject("circle", "red", "large", 0.25, 0.25),
        SceneObject("star", "blue", "small", 0.75, 0.45),
        SceneObject("ring", "red", "large", 0.3, 0.75),
    ),
    PLAIN,
)
ONE = Scene((SceneObject("square", "green", "small", 0.5, 0.5),), Background("striped", 1, 2))


def scenes(count: int, seed: int = 0) -> list[Scene]:
    return [sample_scene(stream(seed, index)) for index in range(count)]
