"""BLEU, ROUGE-L and CIDEr-D of captions, equal to those of pycocoevalcap 1.2, which published figures use.

``bleu``, ``rouge_l`` and ``cider_d`` take text that ``ptb_tokenize`` has prepared (tokens joined by one space);
``caption_scores`` takes captions as people and models write them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from vlkit.errors import DataError
from vlkit.metrics.base import check_positive, shown
from vlkit.metrics.ptb import ptb_tokenize

MAX_N = 4
Counts = list[Counter[tuple[str, ...]]]


def caption_scores(
    candidates: Mapping[Hashable, str] | Sequence[str],
    references: Mapping[Hashable, Sequence[str]] | Sequence[Sequence[str]],
) -> dict[str, float]:
    """Scores of one caption an image against its references, after PTB tokenization.

    Args:
        candidates: image id to caption, or captions in the order of ``references``.
        references: image id to its captions, at least one each; the same ids as ``candidates``.

    Returns:
        ``bleu_1`` to ``bleu_4`` and ``rouge_l``, 0 to 1, and ``cider``, 0 to 10. CIDEr weighs words by how few images
        they occur in: it means something for a set of images only, and is 0 for one image.

    Raises:
        DataError: no captions, other ids, or something that is not text.
    """
    texts, groups = paired_captions(candidates, references)
    tokens, reference_tokens = tokenize_captions(texts, groups)
    bleus, _ = bleu(tokens, reference_tokens)
    scores = {f"bleu_{n}": float(value) for n, value in enumerate(bleus, start=1)}
    scores["rouge_l"] = rouge_l(tokens, reference_tokens)[0]
    scores["cider"] = cider_d(tokens, reference_tokens)[0]
    return scores


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """BLEU with 1 to 4 words, brevity measured against the reference of the closest length (of equals the shorter).

    Args:
        candidates: N tokenized captions.
        references: N lists of tokenized captions.

    Returns:
        BLEU-1 to BLEU-4 of the corpus [4] and of each image [N, 4], 0 to 1.

    Raises:
        DataError: as ``caption_scores``.
    """
    candidates, references = paired_captions(candidates, references)
    correct = np.zeros((len(candidates), MAX_N))
    guessed = np.zeros((len(candidates), MAX_N))
    lengths = np.zeros((len(candidates), 2))  # of the candidate, of its closest reference
    for i, (candidate, group) in enumerate(zip(candidates, references, strict=True)):
        words, split_group = candidate.split(), [reference.split() for reference in group]
        length = len(words)
        lengths[i] = length, min((len(r) for r in split_group), key=lambda n: (abs(n - length), n))
        guessed[i] = [max(0, length - n) for n in range(MAX_N)]
        group_counts = [_count(reference) for reference in split_group]
        for n, counter in enumerate(_count(words)):
            correct[i, n] = sum(min(c, max(r[n][gram] for r in group_counts)) for gram, c in counter.items())
    return _bleu(correct.sum(0), guessed.sum(0), lengths.sum(0)), _bleu(correct, guessed, lengths)


def _bleu(correct: np.ndarray, guessed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    # The two constants, of pycocoevalcap, keep empty captions finite; they show in the ninth decimal.
    precision = np.cumprod((correct + 1e-15) / (guessed + 1e-9), axis=-1)
    ratio = (lengths[..., 0] + 1e-15) / (lengths[..., 1] + 1e-9)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return precision ** (1 / np.arange(1, MAX_N + 1)) * brevity[..., None]


def rouge_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]], beta: float = 1.2
) -> tuple[float, np.ndarray]:
    """F-measure of the longest common subsequence; best precision and best recall over the references.

    Args:
        candidates: N tokenized captions.
        references: N lists of tokenized captions.
        beta: weight of recall.

    Returns:
        The mean, and the score of each image [N], 0 to 1.

    Raises:
        DataError: as ``caption_scores``, or ``beta`` is not above 0.
    """
    candidates, references = paired_captions(candidates, references)
    beta = check_positive("rouge_l", "beta", beta)
    scores = np.zeros(len(candidates))
    for i, (candidate, group) in enumerate(zip(candidates, references, strict=True)):
        words = candidate.split(" ")  # as pycocoevalcap: an empty caption is one empty word
        places: dict[str, int] = {}
        for j, word in enumerate(words):
            places[word] = places.get(word, 0) | 1 << j
        split_group = [reference.split(" ") for reference in group]
        common = [_common_subsequence(places, len(words), reference) for reference in split_group]
        precision = max(common) / len(words)
        recall = max(c / len(reference) for c, reference in zip(common, split_group))
        if precision and recall:
            scores[i] = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return float(scores.mean()), scores


def _common_subsequence(places: Mapping[str, int], length: int, other: Sequence[str]) -> int:
    """Length of the longest common subsequence, a whole row of the usual table as the bits of one number.

    Args:
        places: word to the bits of its places in the first sequence.
        length: of the first sequence.
        other: the second sequence.
    """
    row = full = (1 << length) - 1
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return length - row.bit_count()


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]], sigma: float = 6.0
) -> tuple[float, np.ndarray]:
    """CIDEr-D: similarity of n-gram counts, n-grams of few images weighing more, n from 1 to 4. Source: Vedantam et
    al., arXiv 1411.5726. Document frequencies are those of ``references``.

    Args:
        candidates: N tokenized captions.
        references: N lists of tokenized captions.
        sigma: width of the penalty on a difference in length, in words.

    Returns:
        The mean, and the score of each image [N], 0 to 10.

    Raises:
        DataError: as ``caption_scores``, or ``sigma`` is not above 0.
    """
    candidates, references = paired_captions(candidates, references)
    sigma = check_positive("cider_d", "sigma", sigma)
    counts = [[_count(reference.split()) for reference in group] for group in references]
    weights = _squared_rarity(counts)
    scores = np.zeros(len(candidates))
    for i, (candidate, group) in enumerate(zip(candidates, counts, strict=True)):
        counter = _count(candidate.split())
        norms, pairs = _norms(counter, weights), sum(counter[1].values())
        total = 0.0
        for reference in group:
            # pycocoevalcap counts the length in pairs of words, so that captions of no and of one word are equals
            penalty = math.exp(-((pairs - sum(reference[1].values())) ** 2) / (2 * sigma**2))
            for own, other, norm, other_norm in zip(counter, reference, norms, _norms(reference, weights)):
                shared = [gram for gram in own if gram in other]  # a list: sums must not depend on hashes
                product = sum(min(own[gram], other[gram]) * other[gram] * weights[gram] for gram in shared)
                total += penalty * product / (norm * other_norm or 1.0)
        scores[i] = 10 * total / MAX_N / len(group)
    return float(scores.mean()), scores


def _squared_rarity(counts: Sequence[Sequence[Counts]]) -> defaultdict[tuple[str, ...], float]:
    """Square of log(number of images / images whose references have it) for each n-gram; one image if none has."""
    frequency: Counter[tuple[str, ...]] = Counter()
    for group in counts:
        frequency.update(set().union(*(counter for reference in group for counter in reference)))
    unseen = math.log(len(counts))
    weights = {gram: (unseen - math.log(number)) ** 2 for gram, number in frequency.items()}
    return defaultdict(lambda: unseen**2, weights)


def _norms(counts: Counts, weights: Mapping[tuple[str, ...], float]) -> list[float]:
    """Length of the weighted vector of n-grams, for each n."""
    return [math.sqrt(sum(c * c * weights[gram] for gram, c in counter.items())) for counter in counts]


def _count(words: Sequence[str]) -> Counts:
    return [Counter(zip(*(words[i:] for i in range(n)))) for n in range(1, MAX_N + 1)]


def tokenize_captions(texts: Sequence[str], groups: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """``ptb_tokenize`` for candidates and their references."""
    return ptb_tokenize(texts), [ptb_tokenize(group) for group in groups]


def paired_captions(candidates: Any, references: Any) -> tuple[list[str], list[list[str]]]:
    """Checked candidates and references in one order: that of ``candidates``.

    Raises:
        DataError: as ``caption_scores``.
    """
    if isinstance(candidates, Mapping) != isinstance(references, Mapping):
        raise DataError(
            f"candidates and references must both be mappings or both be lists, got {type(candidates).__name__} and "
            f"{type(references).__name__}."
        )
    given, wanted = _by_id("candidates", candidates), _by_id("references", references)
    if given.keys() != wanted.keys():
        missing, extra = list(wanted.keys() - given.keys()), list(given.keys() - wanted.keys())
        raise DataError(
            f"candidates and references are of different images: {len(missing)} without candidate {missing[:3]}, "
            f"{len(extra)} without references {extra[:3]}."
        )
    if not given:
        raise DataError("there are no captions to score.")
    for key, text in given.items():
        group = wanted[key]
        if not isinstance(text, str):
            raise DataError(f"candidate of {key!r} must be a text, got {type(text).__name__}.")
        if isinstance(group, str) or not isinstance(group, Sequence) or not group:
            raise DataError(f"references of {key!r} must be a list of at least one text, got {shown(group)}.")
        if not all(isinstance(reference, str) for reference in group):
            wrong = next(reference for reference in group if not isinstance(reference, str))
            raise DataError(f"references of {key!r} must be texts, got {shown(wrong)}.")
    return list(given.values()), [list(wanted[key]) for key in given]


def _by_id(name: str, captions: Any) -> dict[Hashable, Any]:
    if isinstance(captions, Mapping):
        return dict(captions)
    if isinstance(captions, str) or not isinstance(captions, Sequence):
        raise DataError(f"{name} must be a mapping from image id or a list, got {type(captions).__name__}.")
    return dict(enumerate(captions))
