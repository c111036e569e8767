from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.datasets.shapes.worlds import ONE, THREE, scenes
from vlkit.datasets.shapes.captions import caption
from vlkit.datasets.shapes.checker import Relation, caption_quality, check, parse
from vlkit.datasets.shapes.scene import COLORS, RELATIONS, SHAPES, SIZES, Mention, stream


def test_parse_reads_objects_relations_counts_and_background():
    said = parse("Three shapes, a large red circle to the left of a blue star and a ring on a plain background.")
    assert said.mentions == [Mention("red", "circle", "large"), Mention("blue", "star"), Mention(None, "ring")]
    assert said.relations == [Relation(0, "left", 1)]
    assert said.counts == [(3, Mention(None, None))]
    assert said.textures == ["plain"]


def test_after_and_the_relation_stays_with_the_first_object():
    said = parse("a red circle left of a blue star and above a red ring")
    assert said.relations == [Relation(0, "left", 1), Relation(0, "above", 2)]


@pytest.mark.parametrize(
    ("text", "true", "claims"),
    [
        ("a large red circle", 1, 1),
        ("a red shape", 1, 1),
        ("a green circle", 0, 1),
        ("a small red circle", 0, 1),
        ("a red circle left of a blue star", 3, 3),
        ("a red circle above a blue star", 3, 3),
        ("a blue star left of a red circle", 2, 3),
        ("a red circle left of a red star", 1, 3),
        ("a red ring below a red circle and a blue star", 4, 4),
        ("a red circle and a red circle", 1, 2),  # there is only one
        ("two red shapes", 3, 3),
        ("two shapes, a red circle and a blue star", 2, 3),
        ("three shapes, a red circle, a blue star and a red ring", 4, 4),
        ("a red circle on a striped background", 1, 2),
        ("a red circle on a plain background", 2, 2),
        ("a red circle left of", 1, 2),  # breaks off
        ("a red circle left of a blue", 1, 3),
        ("a red blue circle", 0, 1),
        ("left of a red circle", 1, 2),
        ("some shapes on a background", 0, 0),
        ("buy now cheap poster free shipping", 0, 0),
        ("", 0, 0),
    ],
)
def test_claims_are_counted_and_judged(text, true, claims):
    judged = check(text, THREE)
    assert (judged.true, len(judged.claims)) == (true, claims)
    assert judged.strict == (0 < true == claims)


def test_one_assignment_must_satisfy_all_claims():
    # "a red shape" could be the circle or the ring, but only the ring is below the star.
    assert check("a red shape below a blue star", THREE).strict
    assert check("a red shape below a blue star and a red shape above a blue star", THREE).objects <= 3
    # Both red shapes are left of the star, the star is right of nothing else: no assignment makes this true.
    assert not check("a red shape right of a blue star", THREE).strict


def test_a_scene_may_be_given_as_plain_data():
    plain = json.loads(json.dumps(ONE.to_dict()))
    assert check("a small green square on a striped background", plain).strict


def test_quality_by_hand():
    scores = caption_quality(["a large red circle left of a blue star", "a red square", "nice"], [THREE, ONE, ONE])
    assert scores == {
        "strict_precision": pytest.approx(1 / 3),
        "claim_precision": pytest.approx(3 / 4),
        "object_recall": pytest.approx(2 / 5),
        "attribute_recall": pytest.approx(5 / 15),
    }
    assert set(caption_quality([], []).values()) == {0}
    with pytest.raises(ValueError, match="1 captions but 0 scenes"):
        caption_quality(["a"], [])


def test_captions_of_other_scenes_are_mostly_false():
    some = scenes(300)
    texts = [caption(scene, stream(index)) for index, scene in enumerate(some)]
    assert caption_quality(texts, some)["strict_precision"] == 1
    assert caption_quality(texts, some[1:] + some[:1])["strict_precision"] < 0.02


WORDS = [*COLORS, *SHAPES, *SIZES, *RELATIONS, "a", "and", ",", "of", "two", "three", "shapes", "background", "plain"]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(WORDS), max_size=60), st.integers(0, 1000))
def test_word_salad_is_judged_consistently(words, index):
    scene = scenes(1, seed=index)[0]
    judged = check(" ".join(words), scene)
    assert 0 <= judged.true <= len(judged.claims)
    assert judged.objects <= len(scene.objects) == judged.scene_objects
    if judged.strict:
        assert sum(c.kind == "object" for c in judged.claims) == judged.objects


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=80))
def test_any_text_is_accepted(text):
    assert check(text, THREE).true >= 0
