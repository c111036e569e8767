"""Convert texts to token ids and back with BERT's rules, from vocabularies on the local disk."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vlkit.errors import ConfigError, DataError, VlkitError, did_you_mean
from vlkit.io.fetch import local_path

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = ("bert-base-uncased", "shapes")
MAX_LENGTH = 512  # positions of BERT

_REQUIRED = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
_OPTIONAL = "[MASK]"
_APPENDED = ("[DEC]", "[ENC]")  # first token of the decoder, and of the image-grounded encoder
_VOCABULARIES = Path(__file__).parents[1] / "configs" / "vocab"
# English written with a space around each token, set tight again.
_TIGHT = {f" {mark}": mark for mark in (".", "?", "!", ",")}
_TIGHT |= {" ' ": "'"}
_TIGHT |= {f" {ending}": ending for ending in ("n't", "'m", "'s", "'ve", "'re")}

MOST_UNKNOWN = 0.1
"""Share of [UNK] tokens above which a tokenizer does not fit."""
_WORDS = 5
_FEWEST, _ENOUGH = 10, 500  # texts


class Tokenizer:
    """A vocabulary with BERT's rules around it; made by :func:`build_tokenizer`, cheap to pickle.

    Attributes:
        spec: what it was built from.
        cls_id, sep_id, pad_id, unk_id: ids of [CLS], [SEP], [PAD] and [UNK].
        mask_id: id of [MASK], None where the vocabulary has none.
        dec_id, enc_id: ids of [DEC] and [ENC], appended where the vocabulary has none.

    Args:
        backend: a ``tokenizers.Tokenizer``.
        spec: what it was built from.
    """

    def __init__(self, backend: Any, spec: str):
        from tokenizers.models import WordPiece

        missing = [token for token in _REQUIRED if backend.token_to_id(token) is None]
        if missing:
            raise ConfigError(
                f"tokenizer {spec!r} lacks {', '.join(missing)}. "
                f"A vocabulary must hold {', '.join(_REQUIRED)}: add a line for each."
            )
        present = [t for t in (*_REQUIRED, _OPTIONAL) if backend.token_to_id(t) is not None]
        backend.add_special_tokens([*present, *_APPENDED])
        backend.no_padding()
        backend.no_truncation()
        self.spec, self._backend = spec, backend
        self._is_wordpiece = isinstance(backend.model, WordPiece)
        self._token_of = {i: token for token, i in backend.get_vocab(with_added_tokens=True).items()}
        ids = [backend.token_to_id(token) for token in (*_REQUIRED, *_APPENDED)]
        self.cls_id, self.sep_id, self.pad_id, self.unk_id, self.dec_id, self.enc_id = ids
        self.mask_id: int | None = backend.token_to_id(_OPTIONAL)
        self._special = {*ids, self.mask_id}

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __reduce__(self):
        return build_tokenizer, (self.spec,)

    def __repr__(self) -> str:
        return f"Tokenizer({self.spec!r}, {len(self)} tokens)"

    def encode(
        self, texts: str | Sequence[str], max_length: int | None = None, special: bool = True
    ) -> list[list[int]]:
        """Return the ids of each text.

        Args:
            texts: one text, or several. Special tokens written out in a text ("[SEP]") count as such.
            max_length: longest list of ids, [CLS] and [SEP] included; the rest is cut off (default: 512).
            special: put [CLS] in front and [SEP] behind.

        Returns:
            One list of ids per text (a list of one list for a single text).

        Raises:
            DataError: a text is not a string; the message names it.
            ConfigError: ``max_length`` leaves no room for [CLS] and [SEP].
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"text {i} of {len(texts)} is {text!r} ({type(text).__name__}), not a string.")
        room = (MAX_LENGTH if max_length is None else max_length) - (2 if special else 0)
        if room < 0:
            raise ConfigError(f"max_length: {max_length}; with [CLS] and [SEP] it must be 2 or more.")
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError as error:  # the library takes what UTF-8 can write
            place = next((i for i, text in enumerate(texts) if not _is_unicode(text)), 0)
            raise DataError(
                f"text {place} of {len(texts)} is {texts[place]!a:.80}: it holds half a character."
            ) from error
        rows = [encoding.ids[:room] for encoding in encodings]
        return [[self.cls_id, *row, self.sep_id] for row in rows] if special else rows

    def batch(
        self, texts: str | Sequence[str], max_length: int | None = None, pad_to: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the ids of all texts in one tensor, padded on the right.

        Args:
            texts: B texts.
            max_length: as in :meth:`encode`.
            pad_to: smallest L (default: that of the longest text).

        Returns:
            ``input_ids`` int64 [B, L], and ``attention_mask`` int64 [B, L]: 1 at tokens, 0 at padding.
        """
        import torch

        rows = self.encode(texts, max_length)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        longest = max([pad_to or 0, *map(len, rows)])
        padded = [row + [self.pad_id] * (longest - len(row)) for row in rows]
        input_ids = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest)
        return input_ids, (torch.arange(longest) < lengths[:, None]).long()

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the token of each id; [UNK] for an id out of range."""
        unknown = self._token_of[self.unk_id]
        return [self._token_of.get(int(i), unknown) for i in ids]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids`` (a list or 1-d tensor): pieces joined, no space before English punctuation.

        Args:
            ids: token ids.
            skip_special_tokens: leave out [CLS], [SEP], [PAD], [UNK], [MASK], [DEC] and [ENC].
        """
        ids = [int(i) for i in ids]
        if not self._is_wordpiece:
            return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        if skip_special_tokens:
            ids = [i for i in ids if i in self._token_of and i not in self._special]
        text = " ".join(self._joined(ids))
        for loose, tight in _TIGHT.items():
            text = text.replace(loose, tight)
        return text

    def batch_decode(self, rows: Iterable[Iterable[int]], skip_special_tokens: bool = True) -> list[str]:
        """:meth:`decode` of each row."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def _joined(self, ids: list[int]) -> list[str]:
        """Join pieces to stretches of text between [DEC]s and [ENC]s, which stay apart."""
        parts: list[list[str]] = [[]]
        for i, token in zip(ids, self.tokens(ids)):
            if i in (self.dec_id, self.enc_id):
                parts += [[token], []]
            else:
                parts[-1].append(token)
        return [" ".join(part).replace(" ##", "").strip() for part in parts if part]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def build_tokenizer(spec: str = "bert-base-uncased") -> Tokenizer:
    """Build the tokenizer of ``spec``; built once per process. Never opens a connection.

    Args:
        spec: "bert-base-uncased" or "shapes" (both ship with the package), or the path of a vocabulary
            (``.txt``, one token a line, lower case, pieces inside a word start with ``##``) or of a
            ``tokenizer.json``, which may be ``package://name/path``.

    Raises:
        ConfigError: there is no such file, it is damaged, or it lacks [CLS], [SEP], [PAD] or [UNK].
    """
    spec = os.fspath(spec)
    try:
        path = _VOCABULARIES / f"{spec}.txt" if spec in BUNDLED else local_path(spec)
    except VlkitError as error:
        raise ConfigError(f"tokenizer {error}") from error
    if not path.is_file():
        raise ConfigError(
            f"tokenizer {spec!r}: no such file ({path}), and no vocabulary of the package."
            f"{did_you_mean(spec, BUNDLED)} Give {' or '.join(map(repr, BUNDLED))}, "
            f"or the path of a vocabulary .txt or a tokenizer.json."
        )
    backend = _from_json(path, spec) if path.suffix == ".json" else _from_vocabulary(path, spec)
    return Tokenizer(backend, spec)


def _from_json(path: Path, spec: str) -> Any:
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ConfigError(f"tokenizer {spec!r}: {path} is not a tokenizer.json: {error}") from error


def _from_vocabulary(path: Path, spec: str) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"tokenizer {spec!r}: {path} is not UTF-8 text: {error}") from error
    if lines[-1] == "":
        lines.pop()
    vocabulary: dict[str, int] = {}
    for number, line in enumerate(lines):
        token = line.removesuffix("\r")
        if token in vocabulary:
            raise ConfigError(
                f"tokenizer {spec!r}: {path}, line {number + 1}: "
                f"{token!r} stands on line {vocabulary[token] + 1} already."
            )
        vocabulary[token] = number
    backend = Backend(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    return backend


class UnknownShare(NamedTuple):
    """Share of texts that a tokenizer does not know.

    Args:
        share: of the tokens that are [UNK], 0 to 1; 0 without texts.
        tokens: of all texts, special ones aside.
        words: the most frequent ones that hold an unknown token.
    """

    share: float
    tokens: int
    words: list[str]


def unknown_share(tokenizer: Any, texts: Sequence[str]) -> UnknownShare:
    """Compute the share of [UNK] among the tokens of ``texts``.

    Args:
        tokenizer: a :class:`Tokenizer`.
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
    """Return advice if more than ``MOST_UNKNOWN`` of the tokens of ``texts`` are [UNK], else "".

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
    """Check once whether a tokenizer fits texts that come bit by bit.

    Args:
        tokenizer: what reads them; anything but a :class:`Tokenizer` is not watched.
        key: as for :func:`unknown_note`.
    """

    def __init__(self, tokenizer: Any, key: str):
        self._tokenizer, self._key = tokenizer, key
        self._texts: list[str] | None = [] if isinstance(tokenizer, Tokenizer) else None

    def see(self, texts: Iterable[str]) -> str:
        """Return a note of :func:`unknown_note`, or ""; checking ends after the first note or enough texts."""
        if self._texts is None:
            return ""
        self._texts += texts
        if len(self._texts) < _FEWEST:
            return ""
        note = unknown_note(self._tokenizer, self._texts, self._key)
        if note or len(self._texts) >= _ENOUGH:
            self._texts = None
        return note
