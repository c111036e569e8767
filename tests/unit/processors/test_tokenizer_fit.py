"""Whether a tokenizer knows the words of some texts."""

from __future__ import annotations

from vlkit.processors.tokenizer import build_tokenizer, unknown_note, unknown_share

CAPTIONS = ["a boy holds an umbrella", "a boy on a red skateboard"]


def test_the_share_counts_tokens_and_words_come_by_frequency():
    found = unknown_share(build_tokenizer("shapes"), CAPTIONS)
    assert found.tokens == 11
    assert found.words == ["boy", "holds", "umbrella", "skateboard"]
    assert found.share == 5 / 11  # "boy" is there twice


def test_a_tokenizer_that_fits_gives_no_note():
    assert unknown_share(build_tokenizer(), CAPTIONS) == (0.0, 12, [])
    assert unknown_note(build_tokenizer(), CAPTIONS) == ""
    assert unknown_note(build_tokenizer("shapes"), []) == ""
    few = ["a red circle"] * 19 + ["boy"]
    assert unknown_note(build_tokenizer("shapes"), few) == ""  # 1 of 58 tokens


def test_the_note_says_what_to_set():
    note = unknown_note(build_tokenizer("shapes"), CAPTIONS)
    assert "the tokenizer 'shapes' does not fit" in note
    assert "'boy'" in note
    assert "Set model.tokenizer: bert-base-uncased" in note
