from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.datasets.shapes.worlds import ONE, THREE, scenes
from vlkit.datasets.shapes.captions import Plan, plan_caption, realise
from vlkit.datasets.shapes.checker import check
from vlkit.datasets.shapes.noise import KINDS, swapped, swapped_caption, web_caption
from vlkit.datasets.shapes.scene import stream


def test_a_swapped_caption_is_false_and_one_change_away():
    changes = Counter()
    for index, scene in enumerate(scenes(500)):
        rng = stream(1, index)
        plan = plan_caption(scene, rng)
        true, false = realise(plan).split(), swapped(plan, scene, rng).split()
        assert not check(" ".join(false), scene).strict
        content = [w for w in true if w not in ("a", "an")]
        other = [w for w in false if w not in ("a", "an")]
        if len(content) == len(other):
            different = [(a, b) for a, b in zip(content, other) if a != b]
            # One word, or two colours exchanged ("left of" against "right of" is one word too).
            assert len(different) == 1 or sorted(a for a, _ in different) == sorted(b for _, b in different)
            changes[len(different)] += 1
        else:  # "to the left of" against "above" cannot be: a relation is only turned round
            pytest.fail(f"{true} {false}")
    assert changes[1] > changes[2] > 0


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
