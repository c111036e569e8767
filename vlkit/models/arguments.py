"""Check the arguments of Python calls: keywords, numbers, choices, lists of texts, sizes that fit into memory."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from vlkit.errors import ConfigError, VlkitError, did_you_mean, shortened
from vlkit.registry.bounds import is_finite

P = ParamSpec("P")
R = TypeVar("R")
_FLOAT_BYTES = 4
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def checked_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make ``function`` reject unknown keyword arguments and name the closest known ones.

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
    """Raise unless ``given`` is an integer from ``low`` to ``high``.

    Raises:
        VlkitError: it is not.
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
    """Return the texts of an argument that takes one text or several.

    Args:
        name: of the argument.
        given: a string, or a list, tuple or array of strings.
        empty: allow an empty list.

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
    """Return the numbers of an argument that takes one number or several, as ``int`` and ``float``.

    Args:
        name: of the argument.
        given: a number, or a list, tuple, array or tensor of numbers.
        whole: allow only integers.
        low: smallest allowed.

    Raises:
        VlkitError: it is something else, or holds something else, NaN or infinity.
    """
    found = one_or_more(name, given, "number")
    for place, each in enumerate(found):
        fits = isinstance(each, numbers.Integral if whole else numbers.Real) and is_finite(each)
        if not fits or each < low:
            bound = f" of at least {low:g}" if low > -math.inf else ""
            kind = "whole" if whole else "finite"
            raise VlkitError(f"{name}[{place}] is {shortened(each)}; it must be a {kind} number{bound}.")
    return [int(each) if isinstance(each, numbers.Integral) else float(each) for each in found]


def check_share(name: str, given: Any) -> float:
    """Return ``given``, a number from 0 to 1, as a float.

    Raises:
        VlkitError: it is no such number.
    """
    is_number = isinstance(given, numbers.Real) and not isinstance(given, bool)
    if not is_number or not 0 <= given <= 1:
        raise VlkitError(f"{name} is {shortened(given)}; it must be a number from 0 to 1.")
    return float(given)


def one_or_more(name: str, given: Any, item: str = "string") -> list[Any]:
    """Return the items of a list, tuple, array or tensor (flattened); a string or a number is one item.

    Args:
        name: of the argument.
        given: its value.
        item: what it holds, for the message.

    Raises:
        VlkitError: it is bytes, None, a mapping, or a collection without an order.
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
    """Return ``given`` if it is a mapping.

    Raises:
        VlkitError: it is not; the message shows ``example``.
    """
    if not isinstance(given, Mapping):
        raise VlkitError(f"{name} must be a mapping such as {example}; given: {type(given).__name__}.")
    return given


def check_memory(values: int, what: str, keys: str) -> None:
    """Raise when ``values`` float32 numbers do not fit into the memory of this machine.

    Without this check the operating system ends the process, or torch raises from deep inside.

    Args:
        values: how many numbers will be allocated on the CPU.
        what: to be allocated, for the message.
        keys: the arguments that decide it.

    Raises:
        ConfigError: they need more than all memory of the machine (or of its container).
    """
    memory = machine_memory()
    on_cpu = torch.get_default_device().type == "cpu"
    if on_cpu and memory is not None and values * _FLOAT_BYTES > memory:
        raise ConfigError(
            f"{what} would have about {values:,} numbers, which is {values * _FLOAT_BYTES / 1e9:,.0f} GB; this machine "
            f"has {memory / 1e9:,.0f} GB of memory. Lower {keys}."
        )


def machine_memory() -> int | None:
    """Return the bytes of memory that a process can have: all of the machine, or the limit of its container; None:
    unknown."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError, AttributeError):  # not on this platform
        return None
    for file in map(Path, _MEMORY_LIMITS):
        text = file.read_text().strip() if file.is_file() else ""
        found += [int(text)] if text.isdigit() else []
    return min(found)
