from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.datasets.shapes.worlds import ONE, THREE, scenes
from vlkit.datasets.shapes.captions import (
    KINDS,
    Plan,
    exchanged,
    plan_caption,
    realize,
    reversed_relation,
    swapped,
    swapped_caption,
    web_caption,
)
from vlkit.datasets.shapes.checker import check
from vlkit.datasets.shapes.scene import stream


def words(text: str) -> list[str]:
    return [word for word in text.split() if word not in ("a", "an")]


def test_false_captions_are_one_change_away():
    made = Counter()
    for index, scene in enumerate(scenes(500)):
        rng = stream(1, index)
        plan = plan_caption(scene, rng)
        texts = {
            "swapped": swapped(plan, scene, rng),
            "exchanged": exchanged(plan, scene, rng),
            "reversed": reversed_relation(plan, scene),
        }
        assert texts["swapped"] is not None
        assert (texts["reversed"] is None) == (plan.relation is None)
        for kind, text in texts.items():
            if text is None:
                continue
            made[kind] += 1
            assert not check(text, scene).strict
            different = [(x, y) for x, y in zip(words(realize(plan)), words(text), strict=True) if x != y]
            if kind == "exchanged":
                assert len(different) == 2
                assert different[0] == different[1][::-1]
            else:
                assert len(different) == 1
    assert made["swapped"] == 500
    assert min(made["exchanged"], made["reversed"]) > 100


def test_swaps_touch_every_attribute():
    texts = {swapped_caption(THREE, stream(index)) for index in range(200)}
    assert len(texts) > 50
    assert not any(check(text, THREE).strict for text in texts)
    sizes = {text for text in (swapped_caption(ONE, stream(i)) for i in range(200)) if "large green square" in text}
    assert sizes


def test_nothing_can_be_swapped_where_nothing_is_said():
    assert swapped(Plan(()), THREE, stream(0)) is None


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.5, 1.0])
def test_the_share_of_noise_is_as_asked(noise):
    kinds = Counter()
    for index, scene in enumerate(scenes(2000)):
        text, kind = web_caption(scene, stream(2, index), noise)
        kinds[kind] += 1
        assert check(text, scene).strict == (kind == "clean")
    assert kinds["clean"] / 2000 == pytest.approx(1 - noise, abs=0.035)
    if noise == 1:
        assert set(kinds) == set(KINDS) - {"clean"}
