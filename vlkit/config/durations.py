"""Lengths of training in steps, epochs or samples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vlkit.errors import ConfigError, did_you_mean

UNITS = ("steps", "epochs", "samples")
_FACTORS = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}
_TEXT = re.compile(
    r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(?:([kKM])(?![A-Za-z]))?\s*([A-Za-z]*)\s*"
)


@dataclass(frozen=True)
class Duration:
    """A length of training.

    Args:
        amount: how many, at least 0; whole unless the unit is epochs.
        unit: "steps" (of the optimiser), "epochs" (passes over the training data) or "samples" (over all
            processes).
    """

    amount: int | float
    unit: str

    FORMS = "3000 (steps), '3000 steps', '0.5 epochs', '80k samples' or {epochs: 2}"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"{self.unit!r} is no unit.{did_you_mean(self.unit, UNITS)} Write {self.FORMS}.")
        if not math.isfinite(self.amount) or self.amount < 0:
            raise ConfigError(f"{self.amount} {self.unit}: a duration is finite and at least 0.")
        if self.unit != "epochs" and self.amount != int(self.amount):
            raise ConfigError(f"{self.amount} {self.unit}: only epochs can be fractions.")

    @classmethod
    def parse(cls, value: Any) -> Duration:
        """A duration from what a config holds; a number alone counts steps; ``k`` is thousand, ``M`` million.

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
        """Optimiser steps, rounded to the nearest whole one (halves up); at least 1 if the duration is not 0.

        Args:
            samples_per_epoch: size of the training data.
            batch_size: samples per optimiser step, over all processes.

        Raises:
            ConfigError: a size below 1.
        """
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
        return f"{self.amount} {self.unit}"


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
        if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
            raise ConfigError(f"{value!r} given. Write {cls.FORMS}.")
        return cls(amount)


def _read(text: str, forms: str) -> tuple[int | float, str]:
    """Number and unit ("" if there is none) of a text such as ``1.5k samples``."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} cannot be read. Write {forms}.")
    number, factor, unit = match.groups(default="")
    exact = Fraction(number.replace("_", "")) * _FACTORS[factor]
    singular = f"{unit.lower()}s"
    unit = singular if singular in UNITS else unit.lower()
    if unit and unit not in UNITS:
        raise ConfigError(f"{text!r}: {unit!r} is no unit.{did_you_mean(unit, UNITS)} Write {forms}.")
    return (int(exact) if exact.denominator == 1 else float(exact)), unit
