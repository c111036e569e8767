from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.datasets.shapes.worlds import ONE, THREE, scenes
from vlkit.datasets.shapes.captions import Plan, caption, distinct, paraphrases, plan_caption, realize
from vlkit.datasets.shapes.checker import check
from vlkit.datasets.shapes.scene import Mention, stream

RED, BLUE, GREEN = Mention("red", "circle", "large"), Mention("blue", "star"), Mention("orange", "ring")


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (Plan((RED,)), "a large red circle"),
        (Plan((RED,), texture="striped"), "a large red circle on a striped background"),
        (Plan((GREEN,), opening="there is "), "there is an orange ring"),
        (Plan((RED,), opening="count"), "one shape, a large red circle"),
        (Plan((RED, BLUE), "left"), "a large red circle left of a blue star"),
        (Plan((RED, BLUE), "below", wording=1), "a large red circle under a blue star"),
        (Plan((RED, BLUE), "above", copula=True), "a large red circle is above a blue star"),
        (Plan((RED, BLUE)), "a large red circle and a blue star"),
        (Plan((RED, BLUE, GREEN), opening="we see "), "we see a large red circle, a blue star and an orange ring"),
        (Plan((RED, BLUE, GREEN), "right", opening="count"),
         "three shapes, a large red circle right of a blue star and an orange ring"),
    ],
)  # fmt: skip
def test_plans_in_words(plan, text):
    assert realize(plan) == text


def test_captions_are_short_true_and_mention_every_object():
    for index, scene in enumerate(scenes(1000)):
        text = caption(scene, stream(1, index))
        judged = check(text, scene)
        assert len(text.split()) <= 16, text
        assert judged.strict, (text, scene)
        assert judged.objects == len(scene.objects)


def test_references_are_different_and_begin_anywhere():
    for index, scene in enumerate(scenes(200)):
        texts = paraphrases(scene, stream(2, index), 5)
        assert len(set(texts)) == len(texts) == 5
    orders = Counter(plan_caption(THREE, stream(index)).mentions[0].color for index in range(300))
    assert orders["red"] > orders["blue"] > 50


def test_a_caption_depends_on_the_generator_alone():
    assert caption(ONE, stream(5)) == caption(ONE, stream(5))
    assert len({caption(ONE, stream(index)) for index in range(60)}) >= 8


def test_distinct_gives_up_when_there_are_no_more():
    assert distinct(lambda: "same", 3) == ["same"]
