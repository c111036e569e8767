"""Recall of retrieval, computed by hand and against a plain ranking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import DataError
from vlkit.metrics.retrieval import median_rank, recall, recall_at_k, right_ranks


def test_by_hand():
    # Three images, texts 0 1 of image 0, 2 3 of image 1, 4 of image 2.
    scores = [
        [0.9, 0.1, 0.2, 0.3, 0.4],  # best text 0: right
        [0.8, 0.7, 0.6, 0.5, 0.1],  # first right text is third
        [0.3, 0.2, 0.1, 0.9, 0.8],  # first right text is second
    ]
    result = recall_at_k(scores, [0, 0, 1, 1, 2], ks=(1, 2, 3))
    # rank of the own image for texts 0 to 4: 1, 3 (.7, .2, .1), 1, 2 (.9, .5, .3), 1
    assert result == pytest.approx(
        {
            "tr@1": 1 / 3,
            "tr@2": 2 / 3,
            "tr@3": 1,
            "ir@1": 3 / 5,
            "ir@2": 4 / 5,
            "ir@3": 1,
            "tr_mean": 2 / 3,
            "ir_mean": 12 / 15,
            "recall_mean": 22 / 30,
        }
    )


def test_one_text_of_the_image_is_enough():
    scores = [[0.9, -5.0], [0.1, 0.2]]
    assert recall_at_k([[0.9, -5.0, 0.5], [0.1, 0.2, 0.3]], [0, 0, 1], ks=[1])["tr@1"] == 1
    assert recall_at_k(scores, [0, 1], ks=[1])["recall_mean"] == 1


def test_equal_scores_are_no_hits():
    result = recall_at_k(np.zeros((4, 8)), np.repeat(np.arange(4), 2), ks=(1, 3, 4, 6, 7))
    assert [result[f"tr@{k}"] for k in (1, 3, 4, 6, 7)] == [0, 0, 0, 0, 1]
    assert [result[f"ir@{k}"] for k in (1, 3, 4, 6, 7)] == [0, 0, 1, 1, 1]


def test_minus_infinity_marks_what_was_not_ranked():
    scores = np.full((3, 3), -np.inf)
    scores[0, 0] = 1.0
    result = recall_at_k(scores, [0, 1, 2], ks=(1,))
    assert result["tr@1"] == result["ir@1"] == pytest.approx(1 / 3)


@given(st.integers(0, 10**6), st.integers(2, 7), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_is_a_plain_ranking_and_knows_no_order(seed: int, images: int, each: int):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), each)
    scores = rng.permutation(images * len(owner)).reshape(images, -1).astype(float)
    result = recall_at_k(scores, owner, ks=(1, 2))
    for k in (1, 2):
        best_texts = np.argsort(-scores, axis=1)[:, :k]
        assert result[f"tr@{k}"] == np.mean([i in owner[best] for i, best in enumerate(best_texts)])
        best_images = np.argsort(-scores, axis=0)[:k]
        assert result[f"ir@{k}"] == np.mean([owner[t] in best_images[:, t] for t in range(len(owner))])
    rows, columns = rng.permutation(images), rng.permutation(len(owner))
    shuffled = recall_at_k(scores[rows][:, columns], np.argsort(rows)[owner][columns], ks=(1, 2))
    assert shuffled == pytest.approx(result)
    assert recall_at_k(scores * 3 - 7, owner, ks=(1, 2)) == result


@pytest.mark.parametrize(
    ("scores", "owner", "ks", "message"),
    [
        (np.zeros((2, 3)), [0, 1], (1,), r"got shapes \[2, 3\] and \[2\]"),
        (np.zeros(3), [0, 1, 2], (1,), "must be"),
        (np.zeros((2, 2)), [0, 2], (1,), "row numbers 0 to 1"),
        (np.zeros((2, 2)), [0.0, 1.0], (1,), "row numbers"),
        (np.zeros((2, 2)), [0, 0], (1,), "1 images have no text, the first is row 1"),
        (np.full((2, 2), np.nan), [0, 1], (1,), "4 of 4 scores are NaN"),
        ([[0.0, np.inf], [0.0, 1.0]], [0, 1], (1,), "1 of 4 scores are infinite"),
        ([[0.0, 1.0], [0.0]], [0, 1], (1,), "cannot be read as an array of numbers"),
        ([["a", "b"]], [0, 0], (1,), "scores must be numbers"),
        (None, [0, 1], (1,), "scores must be numbers"),
        ([], [], (1,), "must be"),
        (np.zeros((2, 2)), [0, None], (1,), "image_of_text must be numbers"),
        (np.zeros((2, 2)), [0, 1], (0,), "from 1"),
        (np.zeros((2, 2)), [0, 1], (), "from 1"),
    ],
)
def test_mistakes(scores, owner, ks, message: str):
    with pytest.raises(DataError, match=message):
        recall_at_k(scores, owner, ks)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([], "there are no ranks"),
        ([0, float("nan")], "1 of 2 ranks are NaN"),
        ([0, float("inf")], "1 of 2 ranks are infinite"),
        ([-1], "whole numbers from 0"),
        ([0.5], "whole numbers from 0"),
        ([[0], [1, 2]], "cannot be read"),
        (["0"], "must be numbers"),
        (None, "must be numbers"),
    ],
)
def test_ranks_that_cannot_be_scored(ranks, message: str):
    for call in (lambda: recall(ranks, [0]), lambda: recall([0], ranks), lambda: median_rank(ranks)):
        with pytest.raises(DataError, match=message):
            call()


def test_right_answers_have_the_shape_of_the_scores():
    with pytest.raises(DataError, match="booleans of the shape of scores"):
        right_ranks(np.zeros((2, 3)), np.zeros((2, 2), bool))
    with pytest.raises(DataError, match="booleans"):
        right_ranks(np.zeros((2, 2)), np.eye(2))
