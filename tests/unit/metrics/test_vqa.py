"""Accuracy of answers by hand; tests/parity has the official evaluation's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import DataError
from vlkit.metrics.vqa import exact_match, normalize_answer, normalize_punctuation, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dog", "dog"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("twas", "'twas"),
        ("yall'll", "y'all'll"),
        ("somebody'd", "somebodyd"),  # the official table's own slip
        ("1,000", "1000"),
        ("2.50 u.s.", "2.50 us"),
        ("black/white", "black white"),
        ("black , white", "black white"),
        ("tab\there\n", "tab here"),
        ("", ""),
    ],
)
def test_normalization(text, expected):
    assert normalize_answer(text) == expected


def test_punctuation_alone():
    assert normalize_punctuation("The t-shirt.") == "The t shirt"
    # A digit, a comma and a digit anywhere: every mark is deleted rather than turned into a space.
    assert normalize_punctuation("1,000 t-shirts") == "1000 tshirts"


@pytest.mark.parametrize(
    ("matches", "expected"),
    # Of ten people m agree: leaving out one of them counts m - 1, leaving out another m, of three that are enough.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)],
)
def test_agreement_with_ten_people(matches, expected):
    assert vqa_accuracy("Red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(expected)


def test_the_answers_of_people_are_normalized_in_their_punctuation_where_they_disagree():
    assert vqa_accuracy("t shirt", ["t-shirt"] * 9 + ["coat"]) == 1.0
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 10) == 0.0  # they all agree, so they stay as they are
    assert vqa_accuracy("two", ["two"] * 9 + ["3"]) == 0.0  # numbers are put into digits only in the prediction
    assert vqa_accuracy("two", ["2"] * 10) == 1.0


@settings(deadline=None)
@given(
    prediction=st.sampled_from(["red", "blue", "2"]),
    answers=st.lists(st.sampled_from(["red", "blue", "2"]), min_size=1, max_size=12),
)
def test_accuracy_is_its_definition(prediction, answers):
    left_out = [answers[:i] + answers[i + 1 :] for i in range(len(answers))]
    expected = sum(min(1.0, others.count(prediction) / 3) for others in left_out) / len(answers)
    assert vqa_accuracy(prediction, answers) == pytest.approx(expected)


def test_exact_match():
    assert exact_match("The dog.", ["a dog"]) == 1.0
    assert exact_match("two", ["cat", "2"]) == 1.0
    assert exact_match("dogs", ["dog"]) == 0.0


@pytest.mark.parametrize("metric", [vqa_accuracy, exact_match])
@pytest.mark.parametrize(
    ("prediction", "answers", "message"),
    [
        ("dog", [], "there are no answers"),
        ("dog", "dog", "must be a list of texts, got 'dog'"),
        ("dog", None, "must be a list of texts"),
        ("dog", ["dog", None], "entry 1 of answers must be a text, got None"),
        ("dog", ["dog", 2], "entry 1 of answers must be a text"),
        (None, ["dog"], "the prediction must be a text"),
        (2, ["2"], "the prediction must be a text"),
        (float("nan"), ["2"], "the prediction must be a text"),
    ],
)
def test_mistakes(metric, prediction, answers, message: str):
    with pytest.raises(DataError, match=message):
        metric(prediction, answers)


@pytest.mark.parametrize("metric", [vqa_accuracy, exact_match])
def test_an_empty_answer_is_valid_and_scores_nothing(metric):
    assert metric("", ["dog"] * 10) == 0.0
