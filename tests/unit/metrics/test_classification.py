"""AUC against its definition over pairs; accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import DataError
from vlkit.metrics.classification import accuracy, auc, best_threshold

SCORED = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def test_by_hand():
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert auc([1, 1, 1], [0, 1, 0]) == 0.5
    assert auc([3, 2, 1], [True, False, False]) == 1


@given(SCORED)
@settings(deadline=None, max_examples=100)
def test_is_the_share_of_won_pairs(rows):
    scores, labels = np.array([s for s, _ in rows]), np.array([label for _, label in rows])
    difference = scores[labels][:, None] - scores[~labels][None, :]
    assert auc(scores, labels) == pytest.approx(((difference > 0) + (difference == 0) / 2).mean())


@given(SCORED, st.integers(1, 5), st.integers(-3, 3))
@settings(deadline=None, max_examples=50)
def test_only_the_order_counts(rows, factor: int, shift: int):
    scores, labels = np.array([s for s, _ in rows], dtype=float), [label for _, label in rows]
    expected = auc(scores, labels)
    assert auc(factor * scores + shift, labels) == expected
    assert auc(np.exp(scores), labels) == expected
    assert auc(-scores, labels) == pytest.approx(1 - expected)
    assert auc(scores[::-1], labels[::-1]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1, 2], [1, 1], "both classes, got 2 positives and 0 negatives"),
        ([1, 2], [0, 2], "0 or 1, got"),
        ([1, float("nan")], [0, 1], "1 of 2 scores are NaN"),
        ([float("-inf"), 0, float("inf")], [1, 0, 0], "2 of 3 scores are infinite"),
        ([[1, 2], [3]], [0, 1], "cannot be read as an array of numbers"),
        (["a", "b"], [0, 1], "scores must be numbers, got .*'a'"),
        ([1, None], [0, 1], "scores must be numbers"),
        ([1, 2], [0, None], "labels must be numbers"),
        ([1, 2], ["0", "1"], "labels must be numbers"),
        ([1, 2], [0, float("nan")], "1 of 2 labels are NaN"),
        ([1 + 2j, 2], [0, 1], "scores must be numbers"),
        ([1, 2, 3], [0, 1], r"got shapes \[3\] and \[2\]"),
        ([], [], "not empty"),
        ([[1], [2]], [[0], [1]], "two lists"),
    ],
)
def test_mistakes(scores, labels, message: str):
    with pytest.raises(DataError, match=message):
        auc(scores, labels)


def test_accuracy():
    assert accuracy([1, 2, 3, 4], [1, 2, 0, 0]) == 0.5
    assert accuracy(["yes", "no"], ["yes", "yes"]) == 0.5
    assert accuracy([True, False], [1, 1]) == 0.5
    assert accuracy(np.array(["a", "b"]), ("a", "b")) == 1.0


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([1, 2], [1], "predictions and labels must be two lists of one length"),
        ([], [], "not empty"),
        (["1", "2"], [1, 2], "both be numbers or both be texts"),
        ([1, float("nan")], [1, 2], "1 of 2 predictions are NaN"),
        ([1, float("inf")], [1, 2], "1 of 2 predictions are infinite"),
        (["yes", None], ["yes", "no"], "predictions must be numbers"),
        ([[1, 2], [3]], [1, 2], "cannot be read"),
        ("yes", "yes", "predictions must be numbers"),
        (None, [1], "predictions must be numbers"),
    ],
)
def test_nothing_wrong_counts_as_unequal(predictions, labels, message: str):
    with pytest.raises(DataError, match=message):
        accuracy(predictions, labels)


def test_the_best_threshold_by_hand():
    # From .4 on: all positives (2 of 2), and 3 of 4 negatives are below.
    assert best_threshold([0.1, 0.2, 0.3, 0.4, 0.8, 0.9], [0, 0, 0, 1, 0, 1]) == pytest.approx((0.35, 0.875))
    assert best_threshold([0.9, 0.8], [0, 1]) == (0.8, 0.5)
    assert best_threshold([1, 1], [0, 1]) == (1, 0.5)


@given(SCORED)
@settings(deadline=None, max_examples=100)
def test_no_other_threshold_is_better(rows):
    scores, labels = np.array([s for s, _ in rows], dtype=float), np.array([label for _, label in rows])

    def balanced(threshold: float) -> float:
        return ((scores[labels] >= threshold).mean() + (scores[~labels] < threshold).mean()) / 2

    threshold, best = best_threshold(scores, labels)
    assert balanced(threshold) == pytest.approx(best)
    assert best == pytest.approx(max(balanced(each) for each in np.arange(-5, 6, 0.5)))


def test_a_threshold_needs_both_classes():
    with pytest.raises(DataError, match="best_threshold needs both classes, got 2 positives and 0 negatives"):
        best_threshold([0.1, 0.2], [1, 1])
