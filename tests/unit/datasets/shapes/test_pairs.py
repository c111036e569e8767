from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from vlkit.datasets.shapes.checker import check
from vlkit.datasets.shapes.pairs import KINDS, Statement, make_statement
from vlkit.datasets.shapes.scene import Scene, stream


def _holds(scene: Scene, phrase: str) -> bool:
    return check(phrase, scene).strict


def _truth(made: Statement) -> bool:
    """The label, read from the sentence."""
    text, left, right = made.sentence, made.left, made.right
    a, b = len(left.objects), len(right.objects)
    if text.startswith("the left image contains"):
        one, two = text.removeprefix("the left image contains ").split(" and the right image contains ")
        return _holds(left, one) and _holds(right, two)
    if "contain" in text:
        phrase = text.split(" contains " if " contains " in text else " contain ")[1]
        number = _holds(left, phrase) + _holds(right, phrase)
        return {"both": number == 2, "exactly": number == 1, "neither": number == 0}[text.split()[0]]
    if "in total" in text:
        return a + b == {"three": 3, "four": 4, "five": 5}[text.split()[2]]
    if "same number" in text:
        return a == b
    return a > b if " more " in text else a < b


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_true_and_balanced(kind):
    labels = Counter()
    for index in range(300):
        made = make_statement(stream(1, index), kind)
        assert made.label == _truth(made), made
        assert len({(o.color, o.shape) for o in made.left.objects}) == len(made.left.objects)
        labels[made.label] += 1
    assert labels[True] / 300 == pytest.approx(0.5, abs=0.1)


def test_the_sentence_does_not_tell_the_label():
    labels = defaultdict(Counter)
    for index in range(3000):
        made = make_statement(stream(2, index))
        labels[made.kind, made.sentence if made.kind in ("total", "more", "same_number") else ""][made.label] += 1
    for counts in labels.values():
        assert max(counts.values()) / sum(counts.values()) < 0.6


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="kinds are both"):
        make_statement(stream(0), "none")
