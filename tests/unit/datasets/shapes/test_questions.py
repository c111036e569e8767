from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from tests.unit.datasets.shapes.worlds import ONE, THREE, scenes
from vlkit.datasets.shapes.checker import check, matches
from vlkit.datasets.shapes.questions import ANSWERS, KINDS, ask, near_miss, plural, questions, referring
from vlkit.datasets.shapes.scene import Scene, stream


@pytest.mark.parametrize("kind", KINDS)
def test_answers_follow_from_the_scene(kind):
    seen = 0
    for index, scene in enumerate(scenes(400)):
        made = ask(scene, stream(1, index), kind)
        if made is None:
            continue
        seen += 1
        assert made.answer in ANSWERS
        assert made.kind == kind
        assert made.answer == _answer(made.question, scene), (made, scene)
    assert seen > 150


def _answer(question: str, scene: Scene) -> str:
    """A second way to the answer: through the caption checker where it can, else by looking."""
    words = question.rstrip("?").split()
    if words[:2] == ["is", "there"]:
        return "yes" if check(" ".join(words[2:]), scene).strict else "no"
    if words[:2] == ["is", "the"]:
        return "yes" if check(" ".join(words[1:]), scene).strict else "no"
    if words[:2] == ["how", "many"]:
        what = words[2]
        singular = {plural(o.shape): o.shape for o in scene.objects}.get(what, what)
        return str(sum(what == "shapes" or singular in (o.color, o.shape) for o in scene.objects))
    attribute = words[1]
    for word in ("left", "right", "above", "below"):
        if word in words:
            tail = " ".join(words[words.index(word) :])
            fits = [o for o in scene.objects if check(f"a {o.color} {o.shape} {tail}", scene).strict]
            break
    else:
        said = set(words[4:]) - {"one"}
        fits = [o for o in scene.objects if said <= {o.color, o.shape, o.size}]
    assert len(fits) == 1
    return getattr(fits[0], attribute)


def test_the_question_alone_does_not_tell_the_answer():
    answers = defaultdict(Counter)
    for index, scene in enumerate(scenes(4000)):
        made = ask(scene, stream(2, index))
        answers[made.kind][made.answer] += 1
    prior = {kind: max(c.values()) / sum(c.values()) for kind, c in answers.items()}
    for kind in ("exist", "relation", "size"):
        assert prior[kind] == pytest.approx(0.5, abs=0.06)
    assert prior["count"] < 0.45
    for kind in ("color", "shape", "where"):
        assert prior[kind] < 0.25
    assert min(sum(c.values()) for c in answers.values()) > 200


def test_several_questions_are_different():
    made = questions(THREE, stream(0), 8)
    assert len({m.question for m in made}) == len(made) == 8


def test_relations_need_two_objects_and_kinds_a_name():
    assert ask(ONE, stream(0), "relation") is None
    assert ask(ONE, stream(0), "where") is None
    with pytest.raises(ValueError, match="kinds are color"):
        ask(ONE, stream(0), "smell")


def test_referring_is_unique_or_nothing():
    star = THREE.objects[1]
    assert referring(THREE, star, "color", stream(0)).shape == "star"
    red_ring = THREE.objects[2]
    assert referring(THREE, red_ring, "shape", stream(0)) is None  # the circle is large and red too


def test_a_near_miss_shares_one_attribute_with_an_object():
    for index in range(100):
        miss = near_miss(THREE, stream(index))
        assert not any(matches(miss, o) for o in THREE.objects)
        assert any(miss.color == o.color or miss.shape == o.shape for o in THREE.objects)
