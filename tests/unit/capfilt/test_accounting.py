"""Counts that add up, and those that do not."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlkit.capfilt.accounting import Counts, total

NUMBER = st.integers(0, 20)
REASONS = st.dictionaries(st.sampled_from(["empty image", "no text", "truncated shard"]), st.integers(1, 5)).map(
    Counter
)
COUNTS = st.builds(
    Counts,
    kept=NUMBER,
    dropped=NUMBER,
    refused=REASONS,
    web_scored=NUMBER,
    web_refused=REASONS,
    web_unasked=NUMBER,
    synthetic=NUMBER,
    fields_refused=REASONS,
    shards=NUMBER,
    damaged=REASONS,
)


def example() -> Counts:
    return Counts(
        kept=3, dropped=1, refused=Counter({"empty image": 2}), web_scored=4, web_kept=1, synthetic=8, shards=1
    )


def test_what_adds_up_is_accepted():
    example().check(images=6, texts=4)
    assert example().annotated == 4  # 3 kept and 1 dropped


@pytest.mark.parametrize(
    ("images", "texts", "changes", "says"),
    [
        (7, 4, {}, "7 images were read, 6 came to an end"),
        (6, 5, {}, "5 web texts were read, 4 came to an end"),
        (6, 4, {"web_kept": 5}, "more web texts are kept"),
        (6, 4, {"synthetic_kept": 9}, "more synthetic texts are kept"),
    ],
)
def test_what_does_not_add_up_is_an_error(images, texts, changes, says):
    counts = example()
    vars(counts).update(changes)
    with pytest.raises(RuntimeError, match=says):
        counts.check(images, texts)


@settings(deadline=None, max_examples=50)
@given(st.lists(COUNTS, max_size=3))
def test_sums_and_the_way_through_a_manifest(parts):
    found = total(parts)
    assert Counts.from_dict(found.as_dict()) == found
    assert found.read == sum(part.kept + part.dropped + part.refused.total() for part in parts)
    assert found.as_dict()["texts"]["web"]["read"] == sum(part.web for part in parts)
    found.check(sum(part.read for part in parts), sum(part.web for part in parts))
