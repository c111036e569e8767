"""Bounds of numbers: annotations that the schema of a constructor carries, and the check of a dataclass against them.

A constructor states the span of each number in its annotation, ``depth: Annotated[int, Range(1, 1000)]``. The
configuration checks what YAML gives against it, ``vlkit show`` prints it, and :func:`check_fields` applies it to
dataclasses that are built from Python. This module imports nothing heavy, so every layer may use it.
"""

from __future__ import annotations

import functools
import math
import numbers
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from vlkit.errors import ConfigError

LARGEST_INT = 2**31 - 1
"""Largest count without a narrower bound: it fits every integer type that torch and NumPy index with."""
LARGEST_SEED = 2**63 - 1
LARGEST_FLOAT = 1e30
"""Largest float without a narrower bound: its square still fits float64, and it fits float32."""


@dataclass(frozen=True)
class Range:
    """The allowed span of a number: ``Annotated[float, Range(0, 1)]``. NaN is in no span.

    Args:
        low: the smallest allowed value.
        high: the largest.
        open: whether ``low`` itself is forbidden.
        open_high: whether ``high`` itself is forbidden.
    """

    low: float = -LARGEST_FLOAT
    high: float = LARGEST_FLOAT
    open: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low < value if self.open else self.low <= value
        return above and (value < self.high if self.open_high else value <= self.high)

    @property
    def technical(self) -> bool:
        """Return whether ``high`` is only what the number types of the machine allow, which descriptions leave out."""
        return self.high in (LARGEST_INT, LARGEST_SEED, LARGEST_FLOAT)

    def __str__(self) -> str:
        low = f"{'above' if self.open else 'at least'} {number(self.low)}" if self.low > -LARGEST_FLOAT else ""
        high = "" if self.technical else f"{'below' if self.open_high else 'at most'} {number(self.high)}"
        return " and ".join(part for part in (low, high) if part)


@dataclass(frozen=True)
class Filled:
    """A text that holds something: ``Annotated[str, Filled()]``. An empty path would be the working directory."""

    def __contains__(self, value: str) -> bool:
        return not isinstance(value, str) or bool(value.strip())

    def __str__(self) -> str:
        return "that is not empty"


FilledText = Annotated[str, Filled()]
Positive = Annotated[float, Range(0, open=True)]
NotNegative = Annotated[float, Range(0)]
UnitInterval = Annotated[float, Range(0, 1)]
DropRate = Annotated[float, Range(0, 1, open_high=True)]
"""A share that is dropped: all of it would leave nothing."""
PositiveInt = Annotated[int, Range(1, LARGEST_INT)]
WholeNumber = Annotated[int, Range(0, LARGEST_INT)]
Seed = Annotated[int, Range(0, LARGEST_SEED)]
Side = Annotated[int, Range(1, 16_384)]
"""Height and width of images in pixels."""
Width = Annotated[int, Range(1, 65_536)]
"""Width of a layer, of its heads or of its features."""
Depth = Annotated[int, Range(1, 1_000)]
"""Number of layers."""
Tokens = Annotated[int, Range(3, 1_000_000)]
"""Length of a text in tokens, [CLS] and [SEP] included."""
BatchSize = Annotated[int, Range(1, 1_000_000)]
MOST_PROCESSES = 1_024
Processes = Annotated[int, Range(1, MOST_PROCESSES)]
"""Number of processes or threads that one command starts."""
Rate = Annotated[float, Range(0, 1e3)]
"""A learning rate or a decay; 0 leaves the weights as they are."""
Column = Annotated[int, Range(0, 100_000)]
"""Position of a column in rows that are lists, from 0."""
Pixels = Annotated[int, Range(1, 10_000_000_000)]
"""Number of pixels of a picture."""
Frames = Annotated[int, Range(1, 100_000)]
"""Number of frames of a video."""
Statistic = Annotated[float, Range(-1e6, 1e6)]
"""A mean or a standard deviation of pixels."""


def is_finite(value: Any) -> bool:
    """Return whether a number is finite as a float: no NaN, not infinite, and no integer too large for it."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def number(value: float) -> str:
    """Return a bound as people write it: integers in full, other numbers with up to six digits."""
    whole = float(value).is_integer() and abs(value) < 2**63
    return str(int(value)) if whole else f"{value:g}"


def number_spans(hint: Any) -> list[tuple[type, Range | None]]:
    """Return every ``int`` and ``float`` in an annotation, at any depth, with its bounds; None: it has none.

    Args:
        hint: an annotation, resolved and with its extras.
    """
    if hint in (int, float):
        return [(hint, None)]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        marks = [mark for mark in args[1:] if isinstance(mark, Range)]
        inner = number_spans(args[0])
        return [(kind, marks[0] if marks else span) for kind, span in inner]
    return [found for arg in args for found in number_spans(arg)]


def check_fields(instance: Any, what: str = "") -> None:
    """Check the numbers of a dataclass against the bounds in its annotations, and make them ``int`` and ``float``.

    Call it first in ``__post_init__``: values from Python are then refused as those from YAML are.

    Args:
        instance: of a dataclass.
        what: put in front of each problem, such as "generation".

    Raises:
        ConfigError: every number that is out of its bounds or not a number.
    """
    problems: list[str] = []
    kind: Any = type(instance)
    for name, hint in _hints(kind).items():
        value = getattr(instance, name)
        if not _fits(value, hint):
            problems.append(f"{what + ': ' if what else ''}{name} is {value!r}; {_needed(value, hint)}.")
        elif isinstance(value, numbers.Real) and type(value) not in (bool, int, float):  # NumPy's, fractions
            plain = int(value) if isinstance(value, numbers.Integral) else float(value)
            object.__setattr__(instance, name, plain)  # the dataclass may be frozen
    if problems:
        raise ConfigError(problems)


def _needed(value: Any, hint: Any) -> str:
    """Return ``it must be at least 1``, or ``a finite number is needed``, where ``value`` is not what ``hint`` says."""
    kind, span = number_spans(hint)[0]
    is_number = isinstance(value, numbers.Integral if kind is int else numbers.Real) and not isinstance(value, bool)
    if not is_number or span is None or not is_finite(value):
        within = f" {span}" if span is not None and str(span) else ""
        return f"a {'whole' if kind is int else 'finite'} number{within} is needed"
    limit = f"at most {number(span.high)}" if span.technical and value > span.high else str(span)
    return f"it must be {limit}"


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hint for name, hint in hints.items() if number_spans(hint)}


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, args[0]) and all(value in mark for mark in args[1:] if isinstance(mark, Range))
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and is_finite(value)
    if hint is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return True  # other kinds are the constructor's business
