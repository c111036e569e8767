"""Which texts are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.capfilt.decision import Decision
from vlkit.errors import ConfigError


@dataclass
class Text:
    text: str
    source: str = "web"
    itm: float = 1.0
    itc: float | None = None


unit, similarity = st.floats(0, 1), st.floats(-1, 1)
texts = st.lists(
    st.builds(
        Text,
        st.sampled_from(["a dog", "a cat", "", "  \n", "sale!"]) | st.text(max_size=5),
        st.sampled_from(["web", "synthetic"]),
        unit | st.just(math.nan),
        st.none() | similarity | st.just(math.nan),
    ),
    max_size=6,
)
decisions = st.builds(Decision, st.sampled_from(["both", "web", "synthetic"]), st.none() | unit, st.none() | similarity)


def test_texts_at_the_threshold_are_kept_and_below_it_are_not():
    found = Decision(threshold=0.5).kept([Text("a", itm=0.5), Text("b", itm=0.49), Text("c", "synthetic", 0.51)])
    assert found == [True, False, True]


def test_both_thresholds_are_asked():
    decision = Decision(threshold=0.5, itc_threshold=0.2)
    both, itm, itc, none = (
        Text("a", itm=0.6, itc=0.3),
        Text("b", itm=0.6, itc=0.1),
        Text("c", itm=0.4, itc=0.3),
        Text("d"),
    )
    assert decision.kept([both, itm, itc, none]) == [True, False, False, False]


@pytest.mark.parametrize(
    ("source", "kept"), [("both", [True, True]), ("web", [True, False]), ("synthetic", [False, True])]
)
def test_only_the_chosen_sources_are_kept(source, kept):
    assert Decision(texts=source).kept([Text("a"), Text("b", "synthetic")]) == kept


def test_captions_are_unique_with_the_web_text_first():
    given = [
        Text("b", "synthetic"),
        Text("a", "synthetic"),
        Text("b", "synthetic"),
        Text("a", "web"),
        Text("c", itm=0.1),
    ]
    assert Decision().captions(given) == ["a", "b"]


def test_a_score_is_the_same_in_double_and_in_single_precision():
    """0.7 in single precision is below 0.7 in double precision."""
    assert Decision(threshold=0.7).kept([Text("a", itm=0.7), Text("a", itm=float(np.float32(0.7)))]) == [True, True]


@settings(deadline=None, max_examples=200)
@given(decisions, texts)
def test_captions_are_exactly_the_kept_texts(decision, texts):
    kept = [each.text for each, keep in zip(texts, decision.kept(texts)) if keep]
    captions = decision.captions(texts)
    assert len(captions) == len(set(captions))
    assert set(captions) == set(kept)
    assert all(text.strip() for text in captions)


@settings(deadline=None, max_examples=200)
@given(texts)
def test_without_thresholds_everything_with_a_text_and_numbers_is_kept(texts):
    usable = [bool(t.text.strip()) and t.itm == t.itm and t.itc == t.itc for t in texts]
    assert Decision(threshold=None).kept(texts) == usable


@settings(deadline=None, max_examples=200)
@given(decisions, decisions, texts)
def test_a_stricter_decision_keeps_a_part(first, second, texts):
    if first.stricter_than(second):
        assert all(there for here, there in zip(first.kept(texts), second.kept(texts)) if here)
    assert first.stricter_than(first)
    assert first.stricter_than(Decision(threshold=None))


@settings(deadline=None, max_examples=200)
@given(decisions, texts)
def test_scores_that_were_rounded_and_stored_in_single_precision_decide_alike(decision, texts):
    def stored(score):
        return None if score is None else float(np.float32(round(score, 6)))

    assert decision.kept(texts) == decision.kept([Text(t.text, t.source, stored(t.itm), stored(t.itc)) for t in texts])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"texts": "syntetic"}, ["'syntetic'", "both, web, synthetic", "Did you mean 'synthetic'"]),
        ({"threshold": 1.5}, ["threshold is 1.5", "from 0 to 1"]),
        ({"threshold": math.nan}, ["threshold is nan"]),
        ({"threshold": True}, ["threshold is True"]),
        ({"threshold": "0.5"}, ["threshold is '0.5'"]),
        ({"itc_threshold": -1.01}, ["itc_threshold is -1.01", "from -1 to 1"]),
        ({"texts": "all", "threshold": -1}, ["texts is 'all'", "threshold is -1"]),
    ],
)
def test_values_that_are_not_allowed_are_named(given, words):
    with pytest.raises(ConfigError) as caught:
        Decision(**given)
    assert all(word in str(caught.value) for word in words)
