"""Scores of binary and multi-class decisions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vlkit.errors import DataError


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Args:
        scores: [N], higher means more likely positive.
        labels: [N], 0 or 1 (or booleans).

    Returns:
        0 to 1; .5 is chance.

    Raises:
        DataError: other shapes, labels or NaN; or only one of the classes is there.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    _check_pair("scores", values, truth)
    if not np.isin(truth, (0, 1)).all():
        raise DataError(f"auc: labels must be 0 or 1, got {sorted(set(truth.tolist()))[:5]}.")
    if np.isnan(values).any():
        raise DataError(f"auc: {int(np.isnan(values).sum())} of {values.size} scores are NaN.")
    positive = truth.astype(bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise DataError(f"auc needs both classes, got {positives} positives and {negatives} negatives.")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse.reshape(-1)]  # equal scores share their mean rank
    wins = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Share of ``predictions`` [N] that equal ``labels`` [N], 0 to 1.

    Raises:
        DataError: they are empty or differ in shape.
    """
    given, truth = np.asarray(predictions), np.asarray(labels)
    _check_pair("predictions", given, truth)
    return float((given == truth).mean())


def _check_pair(name: str, values: np.ndarray, labels: np.ndarray) -> None:
    if values.ndim != 1 or values.shape != labels.shape or not values.size:
        raise DataError(
            f"{name} and labels must be two lists of one length, not empty; "
            f"got shapes {list(values.shape)} and {list(labels.shape)}."
        )
