"""Metrics of visual dialog as the VisDial challenge defines them, and a baseline that knows the questions alone.

Equal scores count against the ranking: a wrong candidate of equal score ranks before the answer, and a less relevant
one before a more relevant one. So no figure depends on the order of candidates, and constant scores gain nothing.

Shapes: ``K`` candidates of a round, ``N`` rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from vlkit.errors import DataError
from vlkit.metrics.base import check_ks, check_text, check_texts, numbers, shown, whole_numbers


def ranks_of(scores: ArrayLike) -> np.ndarray:
    """Return the rank of each candidate, 1 for the best, in the form of the challenge's result files.

    Args:
        scores: [K], higher is better. A result file must hold each rank once, so equal scores rank in the order given.

    Returns:
        [K] a permutation of 1 to K.

    Raises:
        DataError: no scores, or scores that are not finite numbers.
    """
    values = _scores(scores)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return ranks


def answer_rank(scores: ArrayLike, answer: int) -> int:
    """Return the rank of candidate ``answer``, from 1; behind all of equal score.

    Raises:
        DataError: ``answer`` is not 0 to K-1, or a score is not finite.
    """
    values = _scores(scores)
    _check_answer(answer, len(values))
    return int((values >= values[answer]).sum())


def sparse_scores(ranks: ArrayLike, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Compute metrics against the one true answer of each round.

    Args:
        ranks: [N] of the answers, from 1; N at least 1.
        ks: cut-offs of recall.

    Returns:
        ``mrr`` (mean of 1 / rank), ``r@k`` (fraction of ranks up to k) for every k, ``mean_rank``.

    Raises:
        DataError: no ranks, ranks that are no whole numbers from 1, or a k below 1.
    """
    values = whole_numbers("dialog", "ranks", ranks, low=1).astype(np.float64)
    ks = check_ks("dialog", ks)
    found = {"mrr": float((1 / values).mean())}
    found |= {f"r@{k}": float((values <= k).mean()) for k in ks}
    return found | {"mean_rank": float(values.mean())}


def ndcg(scores: ArrayLike, relevance: ArrayLike) -> float | None:
    """Return the normalized discounted cumulative gain of one round, over its first k candidates.

    k is the number of relevant candidates (relevance above 0), as in the challenge: the order of irrelevant ones does
    not matter.

    Args:
        scores: [K], higher is better.
        relevance: [K], 0 to 1: the fraction of annotators who accept a candidate.

    Returns:
        0 to 1; None if no candidate is relevant.

    Raises:
        DataError: numbers that are not finite, negative relevance, or not one for each candidate.
    """
    values, gain = _scores(scores), numbers("ndcg", "relevances", relevance).astype(np.float64)
    if gain.shape != values.shape or not (gain >= 0).all():
        raise DataError(
            f"ndcg: each candidate needs a relevance of 0 or more, got {gain.size} for {values.size} scores, "
            f"the smallest {gain.min():g}."
        )
    k = int((gain > 0).sum())
    if not k:
        return None
    discount = 1 / np.log2(np.arange(k) + 2)
    ranked = gain[np.lexsort((gain, -values))][:k]
    return float((ranked * discount).sum() / (np.sort(gain)[::-1][:k] * discount).sum())


def question_kind(question: str) -> str:
    """Return the first two words of a question ("what color"), its kind in :func:`count_answers`.

    Raises:
        DataError: it is not a string.
    """
    return " ".join(check_text("dialog", "a question", question).lower().split()[:2])


def count_answers(rounds: Iterable[tuple[str, str]]) -> dict[str, Counter[str]]:
    """Count each answer by kind of question; under "" for all questions.

    Args:
        rounds: question and answer.

    Raises:
        DataError: a round is not a pair of strings.
    """
    if isinstance(rounds, (str, bytes)) or not isinstance(rounds, Iterable):
        raise DataError(f"dialog: rounds must be pairs of question and answer, got {shown(rounds)}.")
    counts: dict[str, Counter[str]] = {"": Counter()}
    for turn in rounds:
        if not isinstance(turn, (tuple, list)) or len(turn) != 2:
            raise DataError(f"dialog: a round must be a question and its answer, got {shown(turn)}.")
        question, answer = turn[0], check_text("dialog", "an answer", turn[1])
        counts.setdefault(question_kind(question), Counter())[answer] += 1
        counts[""][answer] += 1
    return counts


def prior_reciprocal_rank(
    counts: Mapping[str, Mapping[str, int]], question: str, candidates: Sequence[str], answer: int
) -> float:
    """Return the expected 1 / rank if candidates are ranked by how often they answer such questions.

    Args:
        counts: see :func:`count_answers`; of other rounds than this one.
        question: of the round.
        candidates: K answers.
        answer: the true one.

    Returns:
        Mean over the possible orders of equally frequent candidates; frequency over all questions decides among those
        that are equally frequent for this kind.

    Raises:
        DataError: ``candidates`` is not a list of texts, ``question`` is no text, ``counts`` is no mapping, or
            ``answer`` is not 0 to K-1.
    """
    if not isinstance(counts, Mapping):
        raise DataError(f"dialog: counts must be what count_answers gives, got {shown(counts)}.")
    check_texts("dialog", "candidates", candidates)
    _check_answer(answer, len(candidates))
    kind, any_kind = counts.get(question_kind(question), {}), counts.get("", {})
    scores = [(kind.get(text, 0), any_kind.get(text, 0)) for text in candidates]
    better = sum(score > scores[answer] for score in scores)
    equal = scores.count(scores[answer])
    return float((1 / np.arange(better + 1, better + equal + 1)).mean())


def _scores(scores: ArrayLike) -> np.ndarray:
    return numbers("dialog", "scores", scores).astype(np.float64)


def _check_answer(answer: int, count: int) -> None:
    if isinstance(answer, bool) or not isinstance(answer, (int, np.integer)) or not 0 <= answer < count:
        raise DataError(f"dialog: the answer is candidate {answer!r}, but there are {count}, counted from 0.")
