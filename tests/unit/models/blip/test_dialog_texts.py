from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.errors import VlkitError
from vlkit.models.blip.dialog_texts import DialogWriter, answer_of
from vlkit.processors.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer("shapes")
HISTORY = [
    ("how many shapes are there", "two"),
    ("is there a red circle?", "yes there is"),
    ("what size is it ?", "small"),
]


def read(ids) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def test_history_question_and_candidate_in_one_text():
    writer = DialogWriter(TOKENIZER, 64, 5)
    texts = writer.write(HISTORY[:2], "what color is it", ["red", "it is blue"])
    front = "[ENC] how many shapes are there? two [SEP] is there a red circle? yes there is [SEP] what color is it?"
    assert [read(ids) for ids in texts] == [f"{front} red [SEP]", f"{front} it is blue [SEP]"]


def test_the_oldest_rounds_are_dropped_whole():
    # Each round of the history takes 8, 10 and 7 tokens, the question 5, the candidate up to 3, [ENC] and [SEP] 2.
    def front(max_words: int) -> str:
        return read(DialogWriter(TOKENIZER, max_words, 3).write(HISTORY, "what color is it", ["red"])[0])

    assert front(35).startswith("[ENC] how many")
    assert (
        front(34)
        == front(27)
        == "[ENC] is there a red circle? yes there is [SEP] what size is it? small [SEP] what color is it? red [SEP]"
    )
    assert front(26) == front(17) == "[ENC] what size is it? small [SEP] what color is it? red [SEP]"
    assert front(16) == front(10) == "[ENC] what color is it? red [SEP]"
    assert front(8) == "[ENC] what color is red [SEP]"


@settings(deadline=None, max_examples=30)
@given(max_words=st.integers(8, 50), long=st.integers(1, 12))
def test_no_text_is_too_long_and_all_candidates_see_the_same_history(max_words, long):
    writer = DialogWriter(TOKENIZER, max_words, 4)
    short_one, long_one = writer.write(HISTORY, "what color is it", ["red", " ".join(["blue"] * long)])
    assert len(long_one) <= max_words
    assert short_one[:-2] == long_one[: len(short_one) - 2]
    assert len(long_one) - len(short_one) == min(long, 4) - 1
    assert [short_one[0], short_one[-1], long_one[-1]] == [TOKENIZER.enc_id, TOKENIZER.sep_id, TOKENIZER.sep_id]


def test_a_dialog_is_written_as_round_after_round():
    dialog = [
        {"question": q, "answer": a, "answer_options": ["red", "yes", "two", a], "gt_index": 3} for q, a in HISTORY
    ]
    writer = DialogWriter(TOKENIZER, 64, 5)
    found = writer.write_dialog(dialog, 7, [[3, 0], [], [1]])
    assert [(r.image, r.matched, len(r.texts)) for r in found] == [(7, 0, 2), (7, None, 0), (7, None, 1)]
    assert found[0].texts == writer.write([], HISTORY[0][0], ["two", "red"])
    assert found[2].texts == writer.write(HISTORY[:2], HISTORY[2][0], ["yes"])


@pytest.mark.parametrize(
    ("turn", "answer"),
    [
        ({"answer": "a", "answer_options": ["b"], "gt_index": 0}, "a"),
        ({"answer": None, "answer_options": ["b", "c"], "gt_index": 1}, "c"),
        ({"answer_options": ["b", "c"], "gt_index": None}, ""),
        ({}, ""),
    ],
)
def test_the_answer_of_a_round(turn, answer):
    assert answer_of(turn) == answer


@pytest.mark.parametrize(("max_words", "max_answer_words"), [(7, 5), (20, 0), (4, 2)])
def test_no_room_for_a_question(max_words, max_answer_words):
    with pytest.raises(VlkitError, match="Raise max_words, or lower max_answer_words"):
        DialogWriter(TOKENIZER, max_words, max_answer_words)
