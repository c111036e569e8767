"""Check the input of metrics: nothing that cannot be scored is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlkit.errors import DataError

LARGEST = 2**53
"""Largest rank or label: up to here floats are exact."""


def numbers(
    metric: str, what: str, values: Any, ndim: int | None = 1, unranked: bool = False, empty: bool = False
) -> np.ndarray:
    """Convert scores, ranks or labels to an array of finite numbers.

    Args:
        metric: its name, for messages.
        what: what the numbers are, a plural ("scores").
        values: array, tensor on the CPU, or nested lists.
        ndim: dimensions wanted; None: any.
        unranked: whether -inf is allowed, which marks a candidate that was not ranked.
        empty: whether there may be none.

    Returns:
        The array in its own dtype; booleans stay booleans.

    Raises:
        DataError: ragged lists, texts, None, complex numbers, masked arrays, another number of dimensions, no values,
            NaN or infinite values.
    """
    found = as_array(metric, what, values)
    if found.size and found.dtype.kind not in "biuf":
        raise DataError(f"{metric}: {what} must be numbers, got {shown(values)}.")
    if ndim is not None and found.ndim != ndim:
        raise DataError(f"{metric}: {what} must have {ndim} dimensions, got shape {list(found.shape)}.")
    if not found.size and not empty:
        raise DataError(f"{metric}: there are no {what}, got shape {list(found.shape)}.")
    if found.dtype.kind == "f" and found.size:
        low, high = found.min(), found.max()  # NaN in either
        if not (high < np.inf) or not (low > -np.inf or (unranked and low == -np.inf)):
            _raise_not_finite(metric, what, found, unranked)
    return found if found.size else found.astype(np.float64)


def as_array(metric: str, what: str, values: Any) -> np.ndarray:
    """Convert anything that is like an array.

    Raises:
        DataError: ragged lists, masked arrays, or tensors of another device, of bfloat16 or with a gradient.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise DataError(f"{metric}: {what} are a masked array; choose the values that count.")
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{metric}: {what} cannot be read as an array of numbers: {str(error).splitlines()[0]}"
        ) from error


def check_ks(metric: str, ks: Any) -> list[int]:
    """Return the cut-offs of a score, whole numbers from 1, if they are a list of these.

    Raises:
        DataError: they are not, or there are none.
    """
    listed = list(ks) if isinstance(ks, (Sequence, np.ndarray)) and not isinstance(ks, (str, bytes)) else []
    if not listed or any(isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1 for k in listed):
        raise DataError(f"{metric}: ks must be numbers from 1, got {shown(ks)}.")
    return [int(k) for k in listed]


def check_positive(metric: str, what: str, value: Any) -> float:
    """Return ``value`` if it is a finite number above 0.

    Raises:
        DataError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < np.inf:
        raise DataError(f"{metric}: {what} must be a finite number above 0, got {shown(value)}.")
    return float(value)


def whole_numbers(
    metric: str, what: str, values: Any, low: int, high: int | None = None, empty: bool = False
) -> np.ndarray:
    """Convert a list of whole numbers between ``low`` and ``high``, both included.

    Floats that are whole count; booleans do not.

    Returns:
        int64 [N]

    Raises:
        DataError: as for :func:`numbers`, or a value is not a whole number of the range.
    """
    found = numbers(metric, what, values, empty=empty)
    wanted = f"whole numbers from {low}" + ("" if high is None else f" to {high}")
    high = LARGEST if high is None else high
    if found.dtype.kind == "b" or (found.dtype.kind == "f" and (found != np.floor(found)).any()):
        raise DataError(f"{metric}: {what} must be {wanted}, got {shown(values)}.")
    if found.size and (found.min() < low or found.max() > high):
        raise DataError(f"{metric}: {what} must be {wanted}, got values from {found.min()} to {found.max()}.")
    return found.astype(np.int64)


def check_text(metric: str, what: str, value: Any) -> str:
    """Return ``value`` if it is a text; an empty one is.

    Raises:
        DataError: it is not.
    """
    if not isinstance(value, str):
        raise DataError(f"{metric}: {what} must be a text, got {shown(value)}.")
    return value


def check_texts(metric: str, what: str, values: Any, empty: bool = False) -> Sequence[str]:
    """Return ``values`` if they are a list of texts.

    Args:
        metric: its name, for messages.
        what: what they are, a plural.
        values: list or tuple; a single text is an error, since it would be taken letter by letter.
        empty: whether there may be none.

    Raises:
        DataError: they are not.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise DataError(f"{metric}: {what} must be a list of texts, got {shown(values)}.")
    if not values and not empty:
        raise DataError(f"{metric}: there are no {what}.")
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"{metric}: entry {index} of {what} must be a text, got {shown(value)}.")
    return values


def shown(value: Any) -> str:
    """``value`` and its type, at most 80 characters of it."""
    written = repr(value)
    return f"{written if len(written) <= 80 else written[:77] + '...'} ({type(value).__name__})"


def _raise_not_finite(metric: str, what: str, values: np.ndarray, unranked: bool) -> None:
    nan = int(np.isnan(values).sum())
    if nan:
        raise DataError(f"{metric}: {nan} of {values.size} {what} are NaN.")
    infinite = int((np.isposinf(values) if unranked else np.isinf(values)).sum())
    raise DataError(f"{metric}: {infinite} of {values.size} {what} are infinite.")
