from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.datasets.question_table import QuestionRow, QuestionTable, weigh_answers
from vlkit.datasets.texts import Source
from vlkit.errors import BadSample

texts = st.text(max_size=6)
rows_ = st.builds(
    QuestionRow,
    number=st.integers(1, 99),
    name=st.sampled_from(["a.jpg", "b.jpg", "c/d.jpg"]),
    question=texts,
    answers=st.lists(st.sampled_from(["yes", "no", "", "2"]), max_size=4),
    question_id=st.one_of(st.none(), st.integers(), texts),
    kind=st.one_of(st.none(), st.just("number")),
    weight=st.one_of(st.none(), st.just(0.2)),
)


def table(*rows: QuestionRow, folder: str = "") -> QuestionTable:
    return QuestionTable([Source("f", folder, rows)])


@settings(deadline=None)
@given(st.lists(rows_, max_size=6))
def test_rows_come_back(rows):
    found = table(*rows, folder="in")
    assert len(found) == len(rows)
    for i, row in enumerate(rows):
        assert found.name(i) == f"in/{row.name}"
        assert (found.question(i), found.answers(i), found.question_id(i)) == (
            row.question,
            row.answers,
            row.question_id,
        )
        assert found.place(i) == f"f:{row.number}"
    assert len({found.names[i] for i in range(len(found.names))}) == len(found.names)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1))
def test_weights_are_shares(answers):
    weights = weigh_answers(answers)
    assert sum(weights.values()) == pytest.approx(1)
    assert list(weights) == list(dict.fromkeys(answers))
    assert all(weights[a] == pytest.approx(answers.count(a) / len(answers)) for a in weights)
    assert set(weigh_answers(answers, 0.2).values()) == {0.2}


def test_sample_to_learn_from_and_to_evaluate():
    row = QuestionRow(7, "a.jpg", "What?", ["no", "yes", "no", "no"], 5, "yes/no")
    sample = table(row).sample(0, training=True, text_processor=str.lower)
    assert sample == {
        "text_input": "what?",
        "answers": ["no", "yes"],
        "weights": [0.75, 0.25],
        "question_id": 5,
        "sample_id": "f:7",
        "image_id": "a.jpg",
        "kind": "yes/no",
    }
    assert table(row).sample(0, training=False)["references"] == row.answers


def test_what_a_row_lacks_is_reported_of_every_sample_alike():
    """A batch keeps the keys that all of its samples have: scores must not depend on who stands beside whom."""
    found = table(QuestionRow(1, "a", "q", [], 3), QuestionRow(2, "a", "q", ["yes"], None, "k"))
    bare, full = (found.sample(i, training=False) for i in range(2))
    assert bare.keys() == full.keys()
    assert (bare["answers"], bare["references"], bare["kind"], bare["question_id"]) == ([], [], "other", 3)
    assert (full["kind"], full["question_id"]) == ("k", "f:2")


def test_unusable_questions():
    found = table(QuestionRow(1, "a", " ", ["yes"]), QuestionRow(2, "a", "q", ["", " "]))
    with pytest.raises(BadSample, match="f:1: the question is empty"):
        found.sample(0, training=False)
    with pytest.raises(BadSample, match="f:2: the question has no answer"):
        found.sample(1, training=True)
    assert found.sample(1, training=False)["answers"] == []


def test_problems():
    rows = [QuestionRow(n, "a", "q", ["yes"], n % 2) for n in (1, 2, 3)] + [QuestionRow(4, "a", "", [""], 9)]
    found = table(*rows)
    assert found.problems(range(4), training=True) == [
        "1 question (f:4) empty. Fill or delete it.",
        "1 question (f:4) without an answer, so not trained on.",
    ]
    assert found.problems(range(4), training=False) == [
        "1 question (f:4) empty. Fill or delete it.",
        "1 question (f:3 and f:1) with the id of an earlier one: servers refuse such results.",
    ]
    assert found.problems(range(2), training=True) == []
