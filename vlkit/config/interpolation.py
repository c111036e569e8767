"""How large a configuration becomes when its interpolations are resolved, counted before they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from vlkit.config.yamlfile import MAX_DEPTH
from vlkit.errors import ConfigError

MAX_CHAIN = MAX_DEPTH
"""Longest chain of values that name one another."""
MAX_CHARACTERS = 5_000_000
"""Most characters of a configuration; a value counts as many as it costs."""
_VALUE = 25  # what a value costs, in characters
_REFERENCE = re.compile(r"\$\{([^${}]*)\}")


def check_interpolations(data: Mapping[str, Any], origin: Callable[[str], str]) -> None:
    """Raise when resolving ``${...}`` in ``data`` would run in a circle or give more than a configuration can be.

    Args:
        data: mappings, lists and plain values.
        origin: says where a key path was written.

    Raises:
        ConfigError: with the place.
    """
    _Measure(data, origin).size(data, "", 0)


class _Measure:
    """Counts values and characters of what every key path becomes, each once."""

    def __init__(self, data: Mapping[str, Any], origin: Callable[[str], str]):
        self.data, self.origin = data, origin
        self.sizes: dict[str, int] = {}
        self.open: list[str] = []

    def size(self, value: Any, path: str, links: int) -> int:
        """Return the values plus characters of ``value``, which is at a key path; references are followed."""
        if path in self.sizes:
            return self.sizes[path]
        if path in self.open:
            raise self._error(path, "the interpolation runs in a circle: it names itself")
        if links > MAX_CHAIN:
            raise self._error(path, f"a chain of more than {MAX_CHAIN} interpolations")
        self.open.append(path)
        prefix, count = f"{path}." if path else "", _VALUE
        if isinstance(value, Mapping):
            # " ": an empty key of the whole is not the whole
            count += sum(self.size(each, f"{prefix}{key}" or " ", links) for key, each in value.items())
        elif isinstance(value, list):
            count += sum(self.size(each, f"{prefix}{index}", links) for index, each in enumerate(value))
        elif isinstance(value, str):
            count += self._text(value, path, links)
        if count > MAX_CHARACTERS:
            limit = f"more than {MAX_CHARACTERS:,} values and characters"
            raise self._error(path, f"with its interpolations written out it has {limit}")
        self.open.pop()
        self.sizes[path] = count
        return count

    def _text(self, text: str, path: str, links: int) -> int:
        if "${" not in text:
            return len(text)
        named = _REFERENCE.findall(text)
        if text.count("${") > len(named):
            raise self._error(path, "an interpolation is written ${section.key}, without another one inside")
        total = len(text)
        for name in named:
            target = _absolute(name.strip(), path)
            found = None if target is None else _found(self.data, target)
            if target is not None and found is not None:
                total += self.size(found, target, links + 1)
        return total

    def _error(self, path: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.origin(path)}: {problem}.")


def _absolute(name: str, path: str) -> str | None:
    """Return the key path that ``name`` in the text at ``path`` means; None: a resolver such as ``oc.env:HOME``."""
    if ":" in name:
        return None
    name = re.sub(r"\[(\w+)\]", r".\1", name)
    dots = len(name) - len(name.lstrip("."))
    if not dots:
        return name
    above = path.split(".")[:-dots]
    return ".".join([*above, name.lstrip(".")])


def _found(data: Any, path: str) -> Any:
    for key in path.split(".") if path else ():
        if isinstance(data, Mapping):
            data = data.get(key)
        elif isinstance(data, list) and key.isdecimal() and int(key) < len(data):
            data = data[int(key)]
        else:
            return None
    return data
