"""Lengths of training in steps, epochs, samples or time, and how often something is done."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vlkit.errors import ConfigError, did_you_mean, shortened
from vlkit.registry.bounds import is_finite

TIMES = {"seconds": 1, "minutes": 60, "hours": 3600}
"""Units of time, in seconds. They count what a run spends in training steps, by the clock of process 0."""
UNITS = ("steps", "epochs", "samples")
"""Units that are a number of steps."""
_ALL = (*UNITS, *TIMES)
_SHORT = {"s": "seconds", "sec": "seconds", "min": "minutes", "h": "hours", "hr": "hours"}
_MOST = 10**15
_FACTORS = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}
_TEXT = re.compile(
    r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(?:([kKM])(?![A-Za-z]))?\s*([A-Za-z]*)\s*"
)


@dataclass(frozen=True)
class Duration:
    """A length of training.

    Args:
        amount: how many, at least 0; whole unless the unit is epochs or a time.
        unit: "steps" (of the optimizer), "epochs" (passes over the training data), "samples" (over all
            processes), or "seconds", "minutes", "hours" (of training).
    """

    amount: int | float
    unit: str

    FORMS = "3000 (steps), '3000 steps', '0.5 epochs', '80k samples', '15 minutes' or {epochs: 2}"

    def __post_init__(self) -> None:
        if self.unit not in _ALL:
            raise ConfigError(f"{self.unit!r} is no unit.{did_you_mean(self.unit, _ALL)} Write {self.FORMS}.")
        if not 0 <= self.amount <= _MOST:  # NaN is neither
            given = f"{float(self.amount):g} {self.unit}" if is_finite(self.amount) else shortened(self.amount)
            raise ConfigError(f"{given}: a duration is finite, at least 0 and at most {_MOST:,}.")
        if self.unit != "epochs" and self.unit not in TIMES and self.amount != int(self.amount):
            raise ConfigError(f"{self.amount} {self.unit}: only epochs can be fractions, and times.")

    @property
    def seconds(self) -> float | None:
        """Return the seconds of training; None unless the unit is a time."""
        return float(self.amount * TIMES[self.unit]) if self.unit in TIMES else None

    @classmethod
    def parse(cls, value: Any) -> Duration:
        """Return a duration from what a config holds; a number alone counts steps; ``k`` is thousand, ``M`` million.

        Raises:
            ConfigError: what was given is none of the allowed forms.
        """
        if isinstance(value, Duration):
            return value
        if isinstance(value, str):
            amount, unit = _read(value, cls.FORMS)
            return cls(amount, unit or "steps")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if value != value or value in (math.inf, -math.inf) or value != int(value):
                raise ConfigError(f"{value} has no unit. Write {cls.FORMS}.")
            return cls(int(value), "steps")
        if isinstance(value, Mapping) and len(value) == 1:
            unit, amount = next(iter(value.items()))
            if isinstance(amount, (int, float, str)) and not isinstance(amount, bool):
                return cls.parse(f"{amount} {unit}")
        raise ConfigError(f"{value!r} is no duration. Write {cls.FORMS}.")

    def resolve(self, samples_per_epoch: int, batch_size: int) -> int:
        """Return optimizer steps, rounded to the nearest whole one (halves up); at least 1 if the duration is not 0.

        Args:
            samples_per_epoch: size of the training data.
            batch_size: samples per optimizer step, over all processes.

        Raises:
            ConfigError: a size below 1, or the duration is a time.
        """
        if self.unit in TIMES:
            raise ConfigError(f"{self} is a time, which is no fixed number of steps. Give steps, epochs or samples.")
        if samples_per_epoch < 1 or batch_size < 1:
            raise ConfigError(
                f"{self} cannot be counted in steps: {samples_per_epoch} samples per epoch and batch size "
                f"{batch_size} given, both must be at least 1."
            )
        steps = Fraction(str(self.amount))  # the decimal that was written: 0.1 epochs is a tenth exactly
        if self.unit == "epochs":
            steps *= Fraction(samples_per_epoch, batch_size)
        elif self.unit == "samples":
            steps /= batch_size
        return max(math.floor(steps + Fraction(1, 2)), 1 if self.amount else 0)

    def __str__(self) -> str:
        return f"{int(self.amount) if self.amount == int(self.amount) else self.amount} {self.unit}"


@dataclass(frozen=True)
class Cadence:
    """How often something is done: after each of some durations, whichever is sooner.

    Args:
        durations: at least one, such as ``(Duration(1, "epochs"), Duration(15, "minutes"))``.
    """

    durations: tuple[Duration, ...]

    FORMS = f"{Duration.FORMS}, or a list such as [1 epochs, 15 minutes]: whichever is sooner"

    def __post_init__(self) -> None:
        if not self.durations:
            raise ConfigError(f"an empty list is no duration. Write {self.FORMS}, or null.")

    @classmethod
    def parse(cls, value: Any) -> Cadence:
        """Return what a config holds: one duration, or a list of them.

        Raises:
            ConfigError: what was given is none of the allowed forms.
        """
        if isinstance(value, Cadence):
            return value
        return cls(tuple(map(Duration.parse, value if isinstance(value, (list, tuple)) else [value])))

    def __str__(self) -> str:
        return " or ".join(map(str, self.durations))


class Count(int):
    """A whole number of at least 0 that a config may write as ``80k`` or ``1.5M``."""

    FORMS = "a whole number such as 3000, 80k or 1.5M"

    @classmethod
    def parse(cls, value: Any) -> Count:
        """Raises:
        ConfigError: not a whole number of at least 0.
        """
        amount: Any = value
        if isinstance(value, str):
            amount, unit = _read(value, cls.FORMS)
            if unit:
                raise ConfigError(f"{value!r} has a unit. Write {cls.FORMS}.")
        if isinstance(amount, bool) or not isinstance(amount, int) or not 0 <= amount <= _MOST:
            raise ConfigError(f"{shortened(value)} given. Write {cls.FORMS}, at most {_MOST:,}.")
        return cls(amount)


def _read(text: str, forms: str) -> tuple[int | float, str]:
    """Return the number and unit ("" if there is none) of a text such as ``1.5k samples``."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} cannot be read. Write {forms}.")
    number, factor, unit = match.groups(default="")
    exact = Fraction(number.replace("_", "")) * _FACTORS[factor]
    unit = _SHORT.get(unit.lower(), unit.lower())
    unit = f"{unit}s" if f"{unit}s" in _ALL else _SHORT.get(unit.removesuffix("s"), unit)
    if unit and unit not in _ALL:
        raise ConfigError(f"{text!r}: {unit!r} is no unit.{did_you_mean(unit, _ALL)} Write {forms}.")
    return (int(exact) if exact.denominator == 1 else float(exact)), unit
