"""Scores of visual dialog, computed by hand and against a plain ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import DataError
from vlkit.metrics.dialog import answer_rank, count_answers, ndcg, prior_reciprocal_rank, ranks_of, sparse_scores


def test_ranks_by_hand():
    assert ranks_of([0.1, 0.9, -3.0, 0.5]).tolist() == [3, 1, 4, 2]
    assert ranks_of([1.0, 2.0, 1.0]).tolist() == [2, 1, 3]
    assert [answer_rank([0.1, 0.9, -3.0, 0.5], i) for i in range(4)] == [3, 1, 4, 2]


def test_equal_scores_count_against_the_answer():
    assert [answer_rank([1.0, 2.0, 1.0], i) for i in range(3)] == [3, 1, 3]
    assert answer_rank(np.zeros(100), 0) == 100
    assert ndcg([0, 0, 0, 0], [1.0, 0, 0, 0]) == 0
    assert ndcg([1, 1, 0], [1.0, 0.5, 0]) == pytest.approx((0.5 + 1 / math.log2(3)) / (1 + 0.5 / math.log2(3)))


def test_sparse_scores_by_hand():
    assert sparse_scores([1, 2, 4, 10, 20]) == pytest.approx(
        {"mrr": (1 + 1 / 2 + 1 / 4 + 1 / 10 + 1 / 20) / 5, "r@1": 0.2, "r@5": 0.6, "r@10": 0.8, "mean_rank": 37 / 5}
    )
    assert sparse_scores([3], ks=(2, 3)) == {"mrr": pytest.approx(1 / 3), "r@2": 0, "r@3": 1, "mean_rank": 3}


def test_ndcg_by_hand():
    relevance = [0.0, 0.5, 1.0, 0.0, 0.2]
    # Three are relevant, so three places count; the ideal order is 1, .5, .2.
    ideal = 1 + 0.5 / math.log2(3) + 0.2 / 2
    assert ndcg([0, 2, 3, -1, 1], relevance) == pytest.approx(1)
    assert ndcg([9, 2, 3, -1, 1], relevance) == pytest.approx((0 + 1 / math.log2(3) + 0.5 / 2) / ideal)
    assert ndcg([9, 1, 0, 8, 7], relevance) == pytest.approx((0.2 / 2) / ideal)
    assert ndcg([1.0, 2.0], [0, 0]) is None


@given(st.integers(0, 10**6), st.integers(2, 12))
@settings(deadline=None, max_examples=40)
def test_no_score_knows_the_order_of_candidates(seed: int, size: int):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, size).astype(float)
    relevance = rng.integers(0, 3, size) / 2
    order = rng.permutation(size)
    assert ndcg(scores, relevance) == pytest.approx(ndcg(scores[order], relevance[order]))
    assert [answer_rank(scores[order], i) for i in range(size)] == [answer_rank(scores, int(i)) for i in order]
    distinct = rng.permutation(size) * 0.5
    assert ranks_of(distinct).tolist() == [answer_rank(distinct, i) for i in range(size)]
    assert ranks_of(distinct)[np.argsort(-distinct)].tolist() == list(range(1, size + 1))


@given(st.integers(0, 10**6), st.integers(2, 8))
@settings(deadline=None, max_examples=30)
def test_ndcg_is_that_of_the_ranks_that_are_handed_in(seed: int, size: int):
    """As the challenge computes it from a result file."""
    rng = np.random.default_rng(seed)
    scores, relevance = rng.normal(size=size), rng.integers(0, 3, size) / 2 + np.eye(size)[0]
    ranked = relevance[np.argsort(ranks_of(scores))]
    k = int((relevance != 0).sum())

    def gain(values):
        return sum(values[i] / math.log2(i + 2) for i in range(k))

    assert ndcg(scores, relevance) == pytest.approx(gain(ranked) / gain(np.sort(relevance)[::-1]))


def test_prior_by_hand():
    counts = count_answers(
        [("What color is it?", "red"), ("what color is that", "red"), ("what color", "blue"), ("is it", "no")]
    )
    assert prior_reciprocal_rank(counts, "what COLOR now", ["blue", "red", "no"], 1) == 1
    assert prior_reciprocal_rank(counts, "what color", ["blue", "red", "no"], 0) == 1 / 2
    # Nothing is known of the kind: red (twice), then blue and no (once each), then green.
    assert prior_reciprocal_rank(counts, "how many", ["green", "blue", "red", "no"], 0) == 1 / 4
    assert prior_reciprocal_rank(counts, "how many", ["green", "blue", "red", "no"], 1) == pytest.approx(
        (1 / 2 + 1 / 3) / 2
    )
    assert prior_reciprocal_rank({}, "why", ["a", "b"], 0) == pytest.approx(3 / 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranks_of([]), "there are no scores"),
        (lambda: ranks_of([[1.0], [1.0, 2.0]]), "cannot be read as an array of numbers"),
        (lambda: ranks_of([1.0, np.inf]), "1 of 2 scores are infinite"),
        (lambda: ranks_of(["a"]), "must be numbers"),
        (lambda: ranks_of(None), "must be numbers"),
        (lambda: answer_rank([1.0, -np.inf], 0), "1 of 2 scores are infinite"),
        (lambda: answer_rank([1.0, 2.0], 1.5), "candidate 1.5"),
        (lambda: answer_rank([1.0, 2.0], None), "candidate None"),
        (lambda: ndcg([1.0, 2.0], [1.0, np.nan]), "1 of 2 relevances are NaN"),
        (lambda: ndcg([1.0, 2.0], [1.0, np.inf]), "1 of 2 relevances are infinite"),
        (lambda: ndcg([], []), "no scores"),
        (lambda: sparse_scores([1, np.nan]), "1 of 2 ranks are NaN"),
        (lambda: sparse_scores([1, np.inf]), "1 of 2 ranks are infinite"),
        (lambda: sparse_scores([1.5]), "whole numbers from 1"),
        (lambda: sparse_scores([1], ks=()), "ks must be numbers from 1"),
        (lambda: sparse_scores([1], ks=(0,)), "ks must be numbers from 1"),
        (lambda: prior_reciprocal_rank({}, "why", ["a", "b"], 2), "candidate 2, but there are 2"),
        (lambda: prior_reciprocal_rank({}, "why", ["a", "b"], -1), "candidate -1"),
        (lambda: prior_reciprocal_rank({}, "why", [], 0), "no candidates"),
        (lambda: prior_reciprocal_rank({}, "why", "ab", 0), "must be a list of texts"),
        (lambda: ranks_of([[1.0]]), r"shape \[1, 1\]"),
        (lambda: answer_rank([1.0, np.nan], 0), "1 of 2 scores are NaN"),
        (lambda: answer_rank([1.0, 2.0], 2), "candidate 2, but there are 2"),
        (lambda: answer_rank([1.0, 2.0], -1), "candidate -1"),
        (lambda: ndcg([1.0, 2.0], [1.0]), "got 1 for 2 scores"),
        (lambda: ndcg([1.0, 2.0], [1.0, -1.0]), "0 or more"),
        (lambda: sparse_scores([]), "there are no ranks"),
        (lambda: sparse_scores([0, 1]), "numbers from 1"),
    ],
)
def test_mistakes(call, message: str):
    with pytest.raises(DataError, match=message):
        call()
