from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.datasets.shapes.worlds import THREE, scenes
from vlkit.datasets.shapes.questions import OPTIONS, make_dialog
from vlkit.datasets.shapes.scene import COLORS, sample_scene, stream


@pytest.mark.parametrize(("rounds", "candidates"), [(1, 2), (5, 20), (10, OPTIONS)])
def test_every_round_is_well_formed(rounds, candidates):
    for index, scene in enumerate(scenes(60)):
        dialog = make_dialog(scene, stream(1, index), rounds, candidates)
        assert len(dialog.rounds) == rounds
        for r in dialog.rounds:
            assert len(set(r.candidates)) == len(r.candidates) == len(r.relevance) == candidates
            assert r.candidates[r.gt_index] == r.answer
            assert r.relevance[r.gt_index] == max(r.relevance) == 1
            assert sorted(r.relevance)[-2] in (0.5, 0)


def test_the_answer_about_it_is_that_of_the_object_last_found():
    followed = 0
    for index, scene in enumerate(scenes(300)):
        found = None
        for r in make_dialog(scene, stream(2, index), 6).rounds:
            if r.question.startswith("is there") and r.answer.startswith("yes"):
                said = set(r.question.rstrip("?").split()[3:]) - {"shape"}
                found = next(o for o in scene.objects if said <= {o.color, o.shape, o.size})
            elif r.question in ("what color is it?", "what size is it?", "what shape is it?"):
                assert r.answer.split()[-1] == getattr(found, r.question.split()[1]), (scene, r)
                followed += 1
    assert followed > 200


def test_no_answer_is_favored_by_its_place_or_by_the_question():
    places, existence, colors = Counter(), Counter(), Counter()
    for index in range(1500):
        scene = sample_scene(stream(4, index), 2 + index % 2)
        for r in make_dialog(scene, stream(3, index), 5, 20).rounds:
            places[r.gt_index] += 1
            if r.question.startswith("is there"):
                existence[r.answer.split()[0]] += 1
            if r.question == "what color is it?":
                colors[r.answer.split()[-1]] += 1
                assert all(any(text.endswith(c) for text in r.candidates) for c in COLORS)
    assert max(places.values()) / sum(places.values()) < 0.07
    assert existence["yes"] / sum(existence.values()) == pytest.approx(0.5, abs=0.06)
    assert max(colors.values()) / sum(colors.values()) < 0.25


def test_the_caption_gives_no_object_away():
    for index in range(50):
        words = make_dialog(THREE, stream(index)).caption.split()
        assert not {"red", "blue", "circle", "star", "ring"} & set(words)


@pytest.mark.parametrize(("rounds", "candidates"), [(0, 20), (5, 1), (5, OPTIONS + 1)])
def test_impossible_numbers_are_refused(rounds, candidates):
    with pytest.raises(ValueError, match=f"2 to {OPTIONS}"):
        make_dialog(THREE, stream(0), rounds, candidates)
