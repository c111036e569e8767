"""Merge configuration trees, apply ``key.path=value`` overrides, and resolve ``${...}`` interpolations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlkit.config.yamlfile import MAX_DEPTH, Node, SourceLocation, parse_yaml
from vlkit.errors import ConfigError, did_you_mean

COMMAND_LINE = SourceLocation(None)


def merge(base: Node, top: Node) -> Node:
    """Merge ``top`` over ``base``: mappings key by key, everything else replaced."""
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = dict(base.value)
    for key, node in top.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, top.place)


def apply_overrides(root: Node, overrides: Sequence[str]) -> Node:
    """Merge each override over ``root``, in order.

    Args:
        overrides: ``key.path=value``; the value is YAML. A key may be new; a list index may not.

    Raises:
        ConfigError: all overrides that cannot be read or placed.
    """
    problems = []
    for override in overrides:
        try:
            keys, value = parse_override(override)
            root = _place(root, keys, value, "")
        except ConfigError as error:
            problems += [f"command line: override {override!r}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return root


def lay(root: Node, key_path: str, value: Node) -> Node:
    """Merge ``value`` over ``root`` at ``key_path``, as an override does; the value keeps its place.

    Raises:
        ConfigError: the key path leads through something that has no keys.
    """
    return _place(root, key_path.split("."), value, "")


def parse_override(text: str) -> tuple[list[str], Node]:
    """Parse an override: ``optim.lr=1e-4`` gives ``["optim", "lr"]`` and the value.

    Raises:
        ConfigError: no ``=``, an empty key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError("there is no '='. Write key.path=value, such as optim.lr=1e-4.")
    if not key or not all(key.split(".")):
        raise ConfigError("the key is empty or has an empty part. Write key.path=value, such as optim.lr=1e-4.")
    if key.count(".") >= MAX_DEPTH:
        raise ConfigError(f"the key has more than {MAX_DEPTH} parts.")
    if key.startswith("+"):
        raise ConfigError(f"a '+' is not needed, new keys may be given: {text.lstrip('+ ')}")
    if not value.strip():
        raise ConfigError(f"there is no value. Write {key}=null for nothing or {key}='\"\"' for an empty text.")
    try:
        node = parse_yaml(value, "value")
    except ConfigError as error:
        raise ConfigError([f"{problem} Quote text with special characters." for problem in error.problems]) from error
    return key.split("."), _from_command_line(node)


def _from_command_line(node: Node) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {key: _from_command_line(child) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_from_command_line(child) for child in value]
    return Node(value, COMMAND_LINE)


def _place(node: Node, keys: list[str], value: Node, path: str) -> Node:
    """Copy ``node`` with ``value`` at ``keys``; ``path`` is where ``node`` is, for messages."""
    if not keys:
        return merge(node, value)
    key, here = keys[0], f"{path}.{keys[0]}" if path else keys[0]
    if isinstance(node.value, list):
        index = _index(key, len(node.value), path)
        items = list(node.value)
        items[index] = _place(items[index], keys[1:], value, here)
        return Node(items, node.place)
    if node.value is not None and not isinstance(node.value, dict):
        raise ConfigError(f"{path} is {node.value!r}, which has no keys, so {here} cannot be set.")
    entries = dict(node.value or {})
    entries[key] = _place(entries.get(key, Node(None, COMMAND_LINE)), keys[1:], value, here)
    return Node(entries, node.place)


def _index(key: str, length: int, path: str) -> int:
    allowed = [str(index) for index in range(length)]
    if key in allowed:
        return int(key)
    if not allowed:
        raise ConfigError(f"{path} is an empty list, so it has no entry {key!r}. Set the whole list: {path}=[...].")
    span = "0" if length == 1 else f"0 to {length - 1}"
    raise ConfigError(f"{path} is a list with the entries {span}, not {key!r}.{did_you_mean(key, allowed)}")


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
