from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import ConfigError, DataError
from vlkit.processors.text import pre_caption, pre_question
from vlkit.registry import PROCESSORS


def test_captions():
    assert pre_caption(" Two men -- one old; one\n\n young (left)!\n") == "two men -- one old one young left"
    assert pre_caption("one two. three four", 3) == "one two three"


def test_questions_lose_punctuation_without_a_space():
    assert pre_question("Is it 10:30?  ") == "is it 1030?"
    assert pre_question("a  b c", 2) == "a "  # each space ends a word


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=80), st.integers(1, 9))
def test_cleaning_leaves_at_most_max_words(text, count):
    for clean in (pre_caption, pre_question):
        cleaned = clean(text, count)
        assert len(cleaned.split(" ")) <= count
        assert not set(cleaned) & set('.!"()*#:;~')
    assert "  " not in pre_caption(text, count)


def test_processors():
    caption = PROCESSORS.get("blip_caption")(prompt="a picture of ", max_words=2)
    assert caption("A red Dog.") == "a picture of a red"
    assert PROCESSORS.get("blip_question")(max_words=3)("What IS this, now?") == "what is this,"


def test_wrong_values_are_named():
    with pytest.raises(DataError, match=r"a caption must be a string, not None \(NoneType\)"):
        pre_caption(None)
    with pytest.raises(DataError, match=r"a question must be a string, not 3 \(int\)"):
        pre_question(3)
    for name in ("blip_caption", "blip_question"):
        with pytest.raises(ConfigError, match="max_words: 0"):
            PROCESSORS.get(name)(max_words=0)
