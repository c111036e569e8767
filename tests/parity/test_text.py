"""Caption and question cleaning, token ids and decoding of the original."""

from __future__ import annotations

import re

import torch

from tests.parity.golden import Case
from vlkit.processors.text import pre_caption, pre_question
from vlkit.processors.tokenizer import build_tokenizer


def numbered(row: dict, prefix: str) -> dict[int, object]:
    """The entries ``<prefix><number>`` of a row, by number."""
    found = {re.fullmatch(rf"{prefix}(\d+)", key): value for key, value in row.items()}
    return {int(match[1]): value for match, value in found.items() if match}


def test_cleaning_equals_the_original():
    for row in Case("text").info["rows"]:
        captions, questions = numbered(row, "pre_caption_"), numbered(row, "pre_question_")
        assert captions or questions
        for count, expected in captions.items():
            assert pre_caption(row["text"], count) == expected, (row["text"], count)
        for count, expected in questions.items():
            assert pre_question(row["text"], count) == expected, (row["text"], count)


def test_ids_and_tokens_equal_the_original():
    rows = Case("text").info["rows"]
    tokenizer = build_tokenizer()
    for row, ids in zip(rows, tokenizer.encode([row["text"] for row in rows])):
        assert ids == row["input_ids"], row["text"]
        assert tokenizer.tokens(ids[1:-1]) == row["tokens"], row["text"]


def test_padded_batches_equal_the_original():
    rows = Case("text").info["rows"]
    tokenizer = build_tokenizer()
    for length in numbered(rows[0], "input_ids_max"):
        expected = torch.tensor([row[f"input_ids_max{length}"] for row in rows])
        ids, mask = tokenizer.batch([row["text"] for row in rows], max_length=length, pad_to=length)
        assert torch.equal(ids, expected)
        assert torch.equal(mask, (expected != tokenizer.pad_id).long())


def test_decoding_equals_the_original():
    tokenizer = build_tokenizer()
    for row in Case("text").info["rows"]:
        assert tokenizer.decode(row["input_ids"]) == row["decoded"]
        assert tokenizer.decode(row["input_ids"], skip_special_tokens=False) == row["decoded_with_special"]


def test_special_ids_equal_the_original():
    info, tokenizer = Case("text").info, build_tokenizer()
    assert len(tokenizer) == info["vocab_length"]
    for name, expected in info["special_ids"].items():
        kind = re.sub(r"\W", "", name.split("[")[-1]).lower()
        assert getattr(tokenizer, f"{kind}_id") == expected, name
