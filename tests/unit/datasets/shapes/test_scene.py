from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.datasets.shapes.worlds import THREE, scenes
from vlkit.datasets.shapes.scene import (
    COLORS,
    GAP,
    MARGIN,
    OPPOSITE,
    RADIUS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    relations,
    sample_scene,
    stream,
)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_scene_keeps_every_promise(seed, index):
    scene = sample_scene(stream(seed, index))
    objects = scene.objects
    assert 1 <= len(objects) <= 3
    assert len({(o.color, o.shape) for o in objects}) == len(objects)
    for i, a in enumerate(objects):
        assert RADIUS[a.size] < a.x < 1 - RADIUS[a.size]
        assert RADIUS[a.size] < a.y < 1 - RADIUS[a.size]
        for b in objects[:i]:
            assert np.hypot(a.x - b.x, a.y - b.y) >= RADIUS[a.size] + RADIUS[b.size] + GAP - 1e-9
            assert relations(a, b)
            assert [OPPOSITE[r] for r in relations(a, b)] == list(relations(b, a))
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_a_scene_depends_on_its_key_alone():
    assert sample_scene(stream(3, 1, 4)) == sample_scene(stream(3, 1, 4))
    assert sample_scene(stream(3, 1, 4)) != sample_scene(stream(3, 1, 5))
    assert sample_scene(stream(3, 1, 4)) != sample_scene(stream(1, 3, 4))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_objects_can_be_asked_for(count):
    assert {len(sample_scene(stream(index), count).objects) for index in range(50)} == {count}


def test_every_attribute_is_drawn_about_equally_often():
    things = [o for scene in scenes(4000) for o in scene.objects]
    for attribute, values in (("color", COLORS), ("shape", SHAPES), ("size", SIZES)):
        shares = Counter(getattr(o, attribute) for o in things)
        assert set(shares) == set(values)
        for number in shares.values():
            assert number / len(things) == pytest.approx(1 / len(values), rel=0.12)
    textures = Counter(scene.background.texture for scene in scenes(4000))
    assert all(textures[t] / 4000 == pytest.approx(0.2, rel=0.12) for t in TEXTURES)


def test_relations_need_the_margin_and_name_the_greater_distance_first():
    def at(x, y):
        return SceneObject("circle", "red", "small", x, y)

    assert relations(at(0.2, 0.5), at(0.2 + MARGIN - 0.01, 0.8)) == ("above",)
    assert relations(at(0.8, 0.5), at(0.3, 0.3)) == ("right", "below")
    assert relations(at(0.3, 0.2), at(0.5, 0.8)) == ("above", "left")


def test_signature_ignores_order_and_place():
    turned = Scene(THREE.objects[::-1], THREE.background)
    assert turned.signature == THREE.signature
    assert ("red", "circle") in THREE.signature
