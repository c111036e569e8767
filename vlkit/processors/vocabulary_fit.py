"""Whether a tokenizer knows the words of some texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vlkit.processors.tokenizer import Tokenizer

MOST_UNKNOWN = 0.1
"""Share of [UNK] tokens above which a tokenizer does not fit."""
_WORDS = 5
_FEWEST, _ENOUGH = 10, 500  # texts


class UnknownShare(NamedTuple):
    """How much of some texts a tokenizer does not know.

    Args:
        share: of the tokens that are [UNK], 0 to 1; 0 without texts.
        tokens: of all texts, special ones aside.
        words: the most frequent ones that hold an unknown token.
    """

    share: float
    tokens: int
    words: list[str]


def unknown_share(tokenizer: Any, texts: Sequence[str]) -> UnknownShare:
    """The share of [UNK] among the tokens of ``texts``.

    Args:
        tokenizer: a :class:`~vlkit.processors.tokenizer.Tokenizer`.
        texts: as a model reads them. Some hundred are enough.
    """
    rows = tokenizer.encode(list(texts), special=False) if texts else []
    tokens = sum(map(len, rows))
    unknown = sum(row.count(tokenizer.unk_id) for row in rows)
    if not unknown:
        return UnknownShare(0.0, tokens, [])
    counts = Counter(word for text, row in zip(texts, rows) if tokenizer.unk_id in row for word in text.split())
    words = list(counts)
    found = [word for word, row in zip(words, tokenizer.encode(words, special=False)) if tokenizer.unk_id in row]
    found.sort(key=lambda word: -counts[word])
    return UnknownShare(unknown / tokens, tokens, found[:_WORDS])


def unknown_note(tokenizer: Any, texts: Sequence[str], key: str = "model.tokenizer") -> str:
    """What to do where more than ``MOST_UNKNOWN`` of the tokens of ``texts`` are [UNK]; "" where a tokenizer fits.

    Args:
        tokenizer, texts: as for :func:`unknown_share`.
        key: what to set to choose another tokenizer.
    """
    found = unknown_share(tokenizer, texts)
    if found.share <= MOST_UNKNOWN:
        return ""
    words = ", ".join(map(repr, found.words))
    return (
        f"the tokenizer {tokenizer.spec!r} does not fit: {found.share:.0%} of the tokens of {len(texts):,} texts are "
        f"[UNK] ({words}, ...). A model neither reads nor writes such words. Set {key}: bert-base-uncased, or the path "
        "of a vocabulary for these texts; with released weights, keep the tokenizer of their card."
    )


class FitWatch:
    """Says once whether a tokenizer fits texts that come bit by bit.

    Args:
        tokenizer: what reads them; anything but a :class:`~vlkit.processors.tokenizer.Tokenizer` is not watched.
        key: as for :func:`unknown_note`.
    """

    def __init__(self, tokenizer: Any, key: str):
        self._tokenizer, self._key = tokenizer, key
        self._texts: list[str] | None = [] if isinstance(tokenizer, Tokenizer) else None

    def see(self, texts: Iterable[str]) -> str:
        """A note as :func:`unknown_note` gives it, or ""; nothing is watched after the first note or enough texts."""
        if self._texts is None:
            return ""
        self._texts += texts
        if len(self._texts) < _FEWEST:
            return ""
        note = unknown_note(self._tokenizer, self._texts, self._key)
        if note or len(self._texts) >= _ENOUGH:
            self._texts = None
        return note
