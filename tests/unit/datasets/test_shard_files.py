"""Braces in the names of shards."""

from __future__ import annotations

import pytest

from vlkit.capfilt.input_shards import _far_files
from vlkit.datasets.shard_files import MAX_SHARDS, expand, expand_braces
from vlkit.errors import DataError


@pytest.mark.parametrize(
    ("pattern", "count", "first"),
    [
        ("a.tar", 1, "a.tar"),
        ("{00000..00331}.tar", 332, "00000.tar"),
        ("{a,b}/{0..9}.tar", 20, "a/0.tar"),
        ("{a/{0..9},b/{0..3}}.tar", 14, "a/0.tar"),
        ("{9..0..3}.tar", 4, "9.tar"),
        ("{a..c}.tar", 3, "a.tar"),
    ],
)
def test_names(pattern, count, first):
    names = expand_braces(pattern)
    assert (len(names), names[0]) == (count, first)


@pytest.mark.parametrize(
    "pattern",
    ["{0..99999999999}.tar", "{{0..999999}{0..999999},x}.tar", "{a..z}" * 9, "{0..9}" * 40, "{a,b}" * 50],
)
def test_bombs_are_refused_before_they_expand(pattern):
    for read in (expand_braces, expand, lambda path: _far_files(f"memory://{path}", [])):
        with pytest.raises(DataError, match=f"stand for more than {MAX_SHARDS:,} names"):
            read(pattern)


def test_a_brace_without_the_other():
    with pytest.raises(DataError, match=r"Unbalanced braces.*Each '{' needs its '}'"):
        expand("data/{0..3.tar")
