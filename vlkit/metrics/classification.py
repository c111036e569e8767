"""Metrics of binary and multi-class decisions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vlkit.errors import DataError
from vlkit.metrics.base import numbers, shown


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Args:
        scores: [N], higher means more likely positive.
        labels: [N], 0 or 1 (or booleans).

    Returns:
        0 to 1; .5 is chance.

    Raises:
        DataError: other shapes or labels, scores that are not finite numbers, or one class alone.
    """
    values, positive = _checked("auc", scores, labels)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse.reshape(-1)]  # equal scores share their mean rank
    wins = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))


def best_threshold(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """Return the threshold with the best balanced accuracy, half-way between the two scores that it separates; of equal
    ones the lowest. Scores at or above it count as positive.

    Args:
        scores, labels: as for :func:`auc`.

    Returns:
        The threshold, and the balanced accuracy: the mean of the fractions of positives at or above it and of
        negatives below it, 0.5 to 1.

    Raises:
        DataError: as :func:`auc`.
    """
    values, positive = _checked("best_threshold", scores, labels)
    edges = np.unique(values)
    below = np.searchsorted(np.sort(values[positive]), edges), np.searchsorted(np.sort(values[~positive]), edges)
    balanced = (1 - below[0] / positive.sum() + below[1] / (~positive).sum()) / 2
    best = int(np.argmax(balanced))
    lower = edges[best - 1] if best else edges[0]  # nothing is below the lowest
    return float((lower + edges[best]) / 2), float(balanced[best])


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Return the fraction of ``predictions`` [N] that equal ``labels`` [N], 0 to 1.

    Args:
        predictions, labels: both numbers (or booleans), or both strings.

    Raises:
        DataError: they are empty, differ in shape, are numbers and texts (which are never equal) or not finite.
    """
    given, truth = _classes("predictions", predictions), _classes("labels", labels)
    _check_pair("predictions", given, truth)
    if (given.dtype.kind == "U") != (truth.dtype.kind == "U"):
        raise DataError(
            f"accuracy: predictions and labels must both be numbers or both be texts, got {shown(predictions)} and "
            f"{shown(labels)}."
        )
    return float((given == truth).mean())


def _checked(name: str, scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [N], and [N] bool: whether each is positive."""
    values = numbers(name, "scores", scores, ndim=None, empty=True).astype(np.float64)
    truth = numbers(name, "labels", labels, ndim=None, empty=True)
    _check_pair("scores", values, truth)
    if not np.isin(truth, (0, 1)).all():
        raise DataError(f"{name}: labels must be 0 or 1, got {sorted(set(truth.tolist()))[:5]}.")
    positive = truth.astype(bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise DataError(f"{name} needs both classes, got {positives} positives and {negatives} negatives.")
    return values, positive


def _classes(what: str, values: ArrayLike) -> np.ndarray:
    """Return strings or finite numbers as an array."""
    listed = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(listed, (list, tuple)) and listed and all(isinstance(each, str) for each in listed):
        return np.asarray(listed)
    return numbers("accuracy", what, values, ndim=None, empty=True)


def _check_pair(name: str, values: np.ndarray, labels: np.ndarray) -> None:
    if values.ndim != 1 or values.shape != labels.shape or not values.size:
        raise DataError(
            f"{name} and labels must be two lists of one length, not empty; "
            f"got shapes {list(values.shape)} and {list(labels.shape)}."
        )
