"""Recall of image-text retrieval (COCO, Flickr30k, MSRVTT), with several texts for each image or video.

Shapes: ``I`` images, ``T`` texts, ``Q`` queries, ``C`` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from vlkit.errors import DataError
from vlkit.metrics.base import as_array, check_ks, numbers, whole_numbers


def right_ranks(scores: ArrayLike, right: ArrayLike) -> np.ndarray:
    """Return the rank, from 0, of the best right answer of each query.

    A wrong answer of equal score counts as better than the right one, so the figures do not depend on the order of
    images or texts, and constant scores give no recall.

    Args:
        scores: [Q, C], higher is closer; -inf marks candidates that were not ranked.
        right: [Q, C] bool, True where a candidate is a right answer.

    Returns:
        [Q] number of wrong answers that score at least as much as the best right one.

    Raises:
        DataError: the shapes differ, there are no scores, or a score is NaN or +inf.
    """
    scores, right = numbers("retrieval", "scores", scores, ndim=2, unranked=True), as_array("retrieval", "right", right)
    if right.shape != scores.shape or right.dtype != bool:
        raise DataError(
            f"retrieval: right must be booleans of the shape of scores, {list(scores.shape)}, "
            f"got {right.dtype} {list(right.shape)}."
        )
    best = np.where(right, scores, -np.inf).max(axis=1)
    return ((scores >= best[:, None]) & ~right).sum(axis=1)


def recall(image_ranks: ArrayLike, text_ranks: ArrayLike, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Return the fraction of queries with a right answer among the ``k`` best, in both directions.

    Args:
        image_ranks: [I] rank from 0 of the best of each image's texts, among all texts.
        text_ranks: [T] rank from 0 of each text's image, among all images.
        ks: cut-offs; one above the number of candidates is allowed.

    Returns:
        ``tr@k`` (image to text), ``ir@k`` (text to image) for every k, ``tr_mean``, ``ir_mean`` over the ks and
        ``recall_mean`` of these two, all 0 to 1.

    Raises:
        DataError: no ranks, ranks that are no whole numbers from 0, or a k below 1.
    """
    ks = check_ks("recall", ks)
    result: dict[str, float] = {}
    for side, given in (("tr", image_ranks), ("ir", text_ranks)):
        ranks = whole_numbers("recall", "ranks", given, low=0)
        result |= {f"{side}@{k}": float((ranks < k).mean()) for k in ks}
    for side in ("tr", "ir"):
        result[f"{side}_mean"] = float(np.mean([result[f"{side}@{k}"] for k in ks]))
    result["recall_mean"] = (result["tr_mean"] + result["ir_mean"]) / 2
    return result


def median_rank(ranks: ArrayLike) -> float:
    """Return the median of ``ranks`` (from 0), counted from 1 as usual (``MdR``).

    Raises:
        DataError: no ranks, or ranks that are no whole numbers from 0.
    """
    return float(np.median(whole_numbers("median_rank", "ranks", ranks, low=0)) + 1)


def recall_at_k(
    scores: ArrayLike,
    image_of_text: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
    text_scores: ArrayLike | None = None,
) -> dict[str, float]:
    """:func:`recall` of whole score matrices.

    Args:
        scores: [I, T] similarity, higher is closer; candidates left out by re-ranking may hold any low value or -inf.
        image_of_text: [T] row of the image that each text describes. Every image needs a text.
        ks: cut-offs; one above the number of candidates is allowed.
        text_scores: [T, I] scores of the direction text to image; None: the transpose of ``scores``.

    Raises:
        DataError: shapes do not fit, a text has no image or an image no text, NaN or +inf, or a k below 1.
    """
    matrix = numbers("recall_at_k", "scores", scores, ndim=None, unranked=True, empty=True)
    owner = numbers("recall_at_k", "image_of_text", image_of_text, ndim=None, empty=True)
    _check(matrix, owner)
    check_ks("recall", ks)
    other = matrix.T
    if text_scores is not None:
        other = numbers("recall_at_k", "text_scores", text_scores, ndim=None, unranked=True, empty=True)
    if other.shape != matrix.T.shape:
        raise DataError(f"recall_at_k: text_scores must be {list(matrix.T.shape)}, got {list(other.shape)}.")
    right = owner[None, :] == np.arange(len(matrix))[:, None]
    return recall(right_ranks(matrix, right), right_ranks(other, right.T), ks)


def _check(matrix: np.ndarray, owner: np.ndarray) -> None:
    if matrix.ndim != 2 or not matrix.size or owner.shape != matrix.shape[1:]:
        raise DataError(
            f"recall_at_k: scores must be [images, texts] with one image_of_text a text, "
            f"got shapes {list(matrix.shape)} and {list(owner.shape)}."
        )
    if not np.issubdtype(owner.dtype, np.integer) or owner.min() < 0 or owner.max() >= len(matrix):
        raise DataError(f"recall_at_k: image_of_text must hold row numbers 0 to {len(matrix) - 1}.")
    without = np.setdiff1d(np.arange(len(matrix)), owner)
    if without.size:
        raise DataError(f"recall_at_k: {without.size} images have no text, the first is row {without[0]}.")
