"""Merging of configuration trees, and ``key.path=value`` from the command line."""

from __future__ import annotations

from collections.abc import Sequence

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
