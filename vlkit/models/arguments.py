"""Checks of what Python calls are given: keyword arguments, numbers, choices, lists of texts."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from vlkit.errors import VlkitError, did_you_mean, shortened

P = ParamSpec("P")
R = TypeVar("R")


def checked_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make ``function`` refuse unknown keyword arguments with the closest known names.

    Raises:
        VlkitError: when called with an unknown keyword argument.
    """
    parameters = inspect.signature(function).parameters
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    known = [name for name, each in parameters.items() if name != "self" and each.kind not in positional]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check_keywords(function.__name__, kwargs, known)
        return function(*args, **kwargs)

    return call


def check_keywords(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise unless all of ``given`` are among the ``known`` keyword arguments of the call ``name``.

    Raises:
        VlkitError: one is not.
    """
    unknown = [key for key in given if key not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise VlkitError(f"{name}() takes no argument {unknown[0]!r}.{hint} It takes {', '.join(known)}.")


def check_choice(name: str, given: Any, allowed: Sequence[str]) -> None:
    """Raise unless ``given`` is one of ``allowed``.

    Raises:
        VlkitError: it is not.
    """
    if not isinstance(given, str) or given not in allowed:
        choices = " or ".join(map(repr, allowed))
        hint = did_you_mean(given, allowed) if isinstance(given, str) else ""
        raise VlkitError(f"{name} is {shortened(given)}; it must be {choices}.{hint}")


def check_whole(name: str, given: Any, low: int, high: float = math.inf) -> None:
    """Raise unless ``given`` is a whole number from ``low`` to ``high``.

    Args:
        name: of the argument.
        given: its value.
        low, high: smallest and largest allowed.

    Raises:
        VlkitError: it is another number, or no number.
    """
    if isinstance(given, bool) or not isinstance(given, numbers.Integral) or not low <= int(given) <= high:
        bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise VlkitError(f"{name} is {shortened(given)}; it must be a whole number, {bounds}.")


def check_flag(name: str, given: Any) -> None:
    """Raise unless ``given`` is True or False.

    Raises:
        VlkitError: it is neither.
    """
    if not isinstance(given, bool):
        raise VlkitError(f"{name} is {shortened(given)}; it must be True or False.")


def text_list(name: str, given: Any, empty: bool = False) -> list[str]:
    """The texts of an argument that takes one text or several.

    Args:
        name: of the argument.
        given: a string, or a list, tuple or array of strings.
        empty: allow no text at all.

    Raises:
        VlkitError: it is something else, or holds something else.
    """
    texts = one_or_more(name, given)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise VlkitError(f"{name}[{place}] is {shortened(text)} ({type(text).__name__}); it must be a string.")
    if not texts and not empty:
        raise VlkitError(f"{name} is empty; give at least one text.")
    return texts


def number_list(name: str, given: Any, whole: bool = False, low: float = -math.inf) -> list[Any]:
    """The numbers of an argument that takes one number or several.

    Args:
        name: of the argument.
        given: a number, or a list, tuple, array or tensor of numbers.
        whole: allow whole numbers alone.
        low: smallest allowed.

    Raises:
        VlkitError: it is something else, or holds something else; NaN and infinity are no numbers.
    """
    found = one_or_more(name, given, "number")
    for place, each in enumerate(found):
        fits = isinstance(each, numbers.Integral if whole else numbers.Real) and math.isfinite(each)
        if not fits or each < low:
            bound = f" of at least {low:g}" if low > -math.inf else ""
            kind = "whole" if whole else "finite"
            raise VlkitError(f"{name}[{place}] is {shortened(each)}; it must be a {kind} number{bound}.")
    return found


def check_share(name: str, given: Any) -> None:
    """Raise unless ``given`` is a number from 0 to 1.

    Raises:
        VlkitError: it is not.
    """
    if isinstance(given, bool) or not isinstance(given, numbers.Real) or not 0 <= float(given) <= 1:
        raise VlkitError(f"{name} is {shortened(given)}; it must be a number from 0 to 1.")


def one_or_more(name: str, given: Any, item: str = "string") -> list[Any]:
    """The items of a list, tuple, array or tensor, of one dimension once it is flat; a string or number is one item.

    Args:
        name: of the argument.
        given: its value.
        item: what it holds, for the message.

    Raises:
        VlkitError: it is a mapping, a set or another collection without an order, or None.
    """
    if isinstance(given, (str, numbers.Number)):
        return [given]
    if hasattr(given, "tolist") and hasattr(given, "ndim"):  # an array or a tensor
        given = given.reshape(-1).tolist()
    if isinstance(given, Sequence) and not isinstance(given, (bytes, bytearray, memoryview)):
        return list(given)
    if isinstance(given, bytes):
        raise VlkitError(f"{name} is {len(given)} bytes; decode them: give a string, or a list of strings.")
    raise VlkitError(f"{name} is {shortened(given)} ({type(given).__name__}); give a {item}, or a list of {item}s.")


def as_mapping(name: str, given: Any, example: str) -> Mapping[str, Any]:
    """``given``, which must be a mapping.

    Raises:
        VlkitError: it is none; the message shows ``example``.
    """
    if not isinstance(given, Mapping):
        raise VlkitError(f"{name} must be a mapping such as {example}; given: {type(given).__name__}.")
    return given
