"""Checks of the input of metrics."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
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
    """Convert an array-like value.

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
    """Return the cut-offs of a score as integers.

    Raises:
        DataError: they are not a list of whole numbers from 1, or there are none.
    """
    listed = list(ks) if isinstance(ks, (Sequence, np.ndarray)) and not isinstance(ks, (str, bytes)) else []
    if not listed or any(isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1 for k in listed):
        raise DataError(f"{metric}: ks must be numbers from 1, got {shown(ks)}.")
    return [int(k) for k in listed]


def check_positive(metric: str, what: str, value: Any) -> float:
    """Return ``value`` as a float.

    Raises:
        DataError: it is not a finite number above 0.
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
    """Return ``value``, a string, maybe empty.

    Raises:
        DataError: it is not a string.
    """
    if not isinstance(value, str):
        raise DataError(f"{metric}: {what} must be a text, got {shown(value)}.")
    return value


def check_texts(metric: str, what: str, values: Any, empty: bool = False) -> Sequence[str]:
    """Return ``values``, a list of strings.

    Args:
        metric: its name, for messages.
        what: what they are, a plural.
        values: list or tuple; a single string is an error, since it would be read letter by letter.
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


def paired_captions(candidates: Any, references: Any) -> tuple[list[str], list[list[str]]]:
    """Return checked captions and their references, in the order of ``candidates``.

    Args:
        candidates: image id to caption, or a list of captions.
        references: image id to a list of captions, or a list of such lists.

    Raises:
        DataError: no captions, different images, or a caption that is not a string.
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


def shown(value: Any) -> str:
    """Return at most 80 characters of ``value``, and its type."""
    written = repr(value)
    return f"{written if len(written) <= 80 else written[:77] + '...'} ({type(value).__name__})"


def _raise_not_finite(metric: str, what: str, values: np.ndarray, unranked: bool) -> None:
    nan = int(np.isnan(values).sum())
    if nan:
        raise DataError(f"{metric}: {nan} of {values.size} {what} are NaN.")
    infinite = int((np.isposinf(values) if unranked else np.isinf(values)).sum())
    raise DataError(f"{metric}: {infinite} of {values.size} {what} are infinite.")
