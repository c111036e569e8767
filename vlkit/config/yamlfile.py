"""YAML text to a tree that remembers the file and line of every key.

Differences from YAML 1.1, all in favour of what people mean: ``1e-4`` is a float, only ``true`` and ``false``
are booleans (so ``[yes, no]`` stays two answers), ``017`` and ``12:30`` are text, and a key given twice is an
error. Mapping keys are always text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlkit.errors import ConfigError

_FLOAT = r"""[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.(?:inf|Inf|INF))
    |\.(?:nan|NaN|NAN)"""
_RULES = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("float", _FLOAT, "-+0123456789."),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)


@dataclass(frozen=True)
class Place:
    """Where something was written: ``file`` is None for the command line; ``line`` counts from 1."""

    file: Path | None
    line: int = 0


@dataclass
class Node:
    """A value with its place; the values of mappings and lists are nodes again."""

    value: Any
    place: Place


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}


class _Dumper(yaml.SafeDumper):
    # Both rule sets: what either reader would take for something else than text is quoted.
    yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RULES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$", re.X), list(_first))


def parse_yaml(content: str | bytes, name: str, file: Path | None = None) -> Node:
    """The tree of one YAML document; an empty document is an empty mapping.

    Args:
        content: the text, or UTF-8 or UTF-16 bytes.
        name: what to call the text in messages.
        file: recorded as the place of every node.

    Raises:
        ConfigError: the text is not YAML, or a mapping has a key twice: ``name:line:column`` and the reason.
    """
    try:
        loader = _Loader(content)
        try:
            root = loader.get_single_node()
            return Node({}, Place(file, 1)) if root is None else _Tree(loader, name, file).node(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        tab = " Indent with spaces, not tabs." if "\\t" in str(error.problem) else ""
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}.{tab}") from error
    except yaml.YAMLError as error:  # characters that YAML forbids, or bytes that are no text
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error


def dump_yaml(data: Any) -> str:
    """YAML that :func:`parse_yaml` reads back as ``data``; keys keep their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Tree:
    """Turns the nodes of the YAML composer into ours."""

    def __init__(self, loader: _Loader, name: str, file: Path | None):
        self.loader, self.name, self.file = loader, name, file
        self.open: set[int] = set()

    def node(self, raw: yaml.Node, line: int | None = None) -> Node:
        place = Place(self.file, raw.start_mark.line + 1 if line is None else line)
        if isinstance(raw, yaml.ScalarNode):
            value = self.loader.construct_object(raw)
            if not isinstance(value, (type(None), bool, int, float, str)):
                raise self._error(raw, f"a value of type {type(value).__name__} cannot be used here")
            return Node(value, place)
        if id(raw) in self.open:
            raise self._error(raw, "an anchor contains itself")
        self.open.add(id(raw))
        if isinstance(raw, yaml.SequenceNode):
            items: Any = [self.node(item) for item in raw.value]
        else:
            items = self._mapping(raw)
        self.open.discard(id(raw))
        return Node(items, place)

    def _mapping(self, raw: yaml.Node) -> dict[str, Node]:
        seen: dict[str, int] = {}
        for key, _ in raw.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be plain text")
            if key.value in seen and key.value != "<<":
                raise self._error(key, f"the key {key.value!r} stands here and in line {seen[key.value]}; keep one")
            seen[key.value] = key.start_mark.line + 1
        self.loader.flatten_mapping(raw)  # puts what `<<: *anchor` brings in front, where own keys override it
        return {key.value: self.node(value, key.start_mark.line + 1) for key, value in raw.value}

    def _error(self, raw: yaml.Node, problem: str) -> ConfigError:
        mark = raw.start_mark
        return ConfigError(f"{self.name}:{mark.line + 1}:{mark.column + 1}: {problem}.")
