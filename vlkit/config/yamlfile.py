"""YAML text to a tree that remembers the file and line of every key.

Differences from YAML 1.1, all in favor of what people mean: ``1e-4`` is a float, only ``true`` and ``false``
are booleans (so ``[yes, no]`` stays two answers), ``017`` and ``12:30`` are text, and a key given twice is an
error. Mapping keys are always text.

A document may come from anyone, so its size is limited before it is expanded: nesting, and nodes with every alias
written out. Messages name the place, never the content of a line: the file may not be a configuration at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlkit.errors import ConfigError, shortened
from vlkit.io.text import kind_of

_FLOAT = r"""[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.(?:inf|Inf|INF))
    |\.(?:nan|NaN|NAN)"""
_RULES = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("float", _FLOAT, "-+0123456789."),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F][0-9a-fA-F_]*)", "-+0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)
MAX_BYTES = 2_000_000
MAX_DEPTH = 50
"""Deepest nesting of mappings and lists."""
MAX_NODES = 50_000
"""Most keys and values of a document, with aliases written out."""
_MAX_BITS = 256  # of an integer; larger ones take long to print
_KINDS = {"map", "seq"}
_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")
_QUOTED = re.compile(r" ?'(?!<)[^']{4,}'|" + r' ?"[^"]{4,}"')


@dataclass(frozen=True)
class SourceLocation:
    """Where something was written: ``file`` is None for the command line; ``line`` counts from 1."""

    file: Path | None
    line: int = 0


@dataclass
class Node:
    """A value with its place; the values of mappings and lists are nodes again."""

    value: Any
    place: SourceLocation


class _Loader(yaml.SafeLoader):
    """A loader that refuses deep nesting and too many values while it reads: the parser recurses, and takes seconds."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}
    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            deep, many = f"nested more than {MAX_DEPTH} levels deep", f"more than {MAX_NODES:,} values"
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem=deep if self.depth > MAX_DEPTH else many, problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    # Both rule sets: what either reader would take for something else than text is quoted.
    yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Represent a text, in double quotes where a reader would take one of its characters for the end of a line."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _LINE_ENDS.search(text) else None)


_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in _RULES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$", re.X), list(_first))


def parse_yaml(content: str | bytes, name: str, file: Path | None = None) -> Node:
    """Parse one YAML document to a tree; an empty document is an empty mapping.

    Args:
        content: the text, or UTF-8 or UTF-16 bytes.
        name: what to call the text in messages.
        file: recorded as the place of every node.

    Raises:
        ConfigError: the text is not YAML, is too large or too deep, or a mapping has a key twice:
            ``name:line:column`` and the reason.
    """
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{name}: more than {MAX_BYTES:,} bytes. Is it a configuration?")
    try:
        loader = _Loader(content)
        try:
            root = loader.get_single_node()
            if root is None:
                return Node({}, SourceLocation(file, 1))
            _check_expanded(root, name)
            return _Tree(loader, name, file).node(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        tab = " Indent with spaces, not tabs." if "\\t" in str(error.problem) else ""
        problem = _QUOTED.sub("", str(error.problem or error.context))
        raise ConfigError(f"{where}: not valid YAML: {problem}.{tab}") from error
    except yaml.reader.ReaderError as error:  # characters that YAML forbids, or bytes that are no text
        if isinstance(content, bytes) and (kind := kind_of(content)):
            raise ConfigError(f"{name}: it is {kind}, not YAML.") from error
        raise ConfigError(
            f"{name}: not valid YAML: {error.reason} at position {error.position}. Is it a text file in UTF-8?"
        ) from error
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid YAML: {type(error).__name__}.") from error


def _check_expanded(root: yaml.Node, name: str) -> None:
    """Raise when an anchor contains itself, or ``root`` would be too large or too deep with aliases written out.

    Each node is counted once, so this takes as long as the text is, whatever it would become.
    """
    sizes: dict[int, tuple[int, int]] = {}  # of a finished node: nodes and levels, itself included
    open_nodes: set[int] = set()
    stack = [root]
    while stack:
        node = stack[-1]
        if id(node) in sizes:
            stack.pop()
            continue
        inside = [] if isinstance(node, yaml.ScalarNode) else _children(node)
        waiting = [child for child in inside if id(child) not in sizes]
        if not waiting:
            count = 1 + sum(sizes[id(child)][0] for child in inside)
            depth = 1 + max((sizes[id(child)][1] for child in inside), default=0)
            if count > MAX_NODES or depth > MAX_DEPTH:
                limit = f"{MAX_NODES:,} values" if count > MAX_NODES else f"{MAX_DEPTH} levels"
                raise _at(node, name, f"with its aliases written out it has more than {limit}")
            sizes[id(node)] = count, depth
            open_nodes.discard(id(node))
            stack.pop()
            continue
        if id(node) in open_nodes:  # a child that waits is open too: it contains itself
            raise _at(node, name, "an anchor contains itself")
        open_nodes.add(id(node))
        if any(id(child) in open_nodes for child in waiting):
            raise _at(node, name, "an anchor contains itself")
        stack += waiting


def _is_text(value: str) -> bool:
    """Return whether a text can be a path and can be written as UTF-8."""
    try:
        value.encode()
    except UnicodeError:
        return False
    return "\0" not in value


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return node.value
    return [each for pair in node.value for each in pair]


def _at(node: yaml.Node, name: str, problem: str) -> ConfigError:
    mark = node.start_mark
    return ConfigError(f"{name}:{mark.line + 1}:{mark.column + 1}: {problem}.")


def dump_yaml(data: Any) -> str:
    """Write YAML that :func:`parse_yaml` reads back as ``data``; keys keep their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Tree:
    """Turns the nodes of the YAML composer into ours."""

    def __init__(self, loader: _Loader, name: str, file: Path | None):
        self.loader, self.name, self.file = loader, name, file

    def node(self, raw: yaml.Node, line: int | None = None) -> Node:
        place = SourceLocation(self.file, raw.start_mark.line + 1 if line is None else line)
        if isinstance(raw, yaml.ScalarNode):
            value = self._scalar(raw)
            if not isinstance(value, (type(None), bool, int, float, str)):
                raise _at(raw, self.name, f"a value of type {type(value).__name__} cannot be used here")
            return Node(value, place)
        if raw.tag.removeprefix("tag:yaml.org,2002:") not in _KINDS:
            raise _at(raw, self.name, "a tag (!) that is not known here; remove it")
        if isinstance(raw, yaml.SequenceNode):
            items: Any = [self.node(item) for item in raw.value]
        else:
            items = self._mapping(raw)
        return Node(items, place)

    def _scalar(self, raw: yaml.ScalarNode) -> Any:
        try:
            value = self.loader.construct_object(raw)
        except (ValueError, KeyError, IndexError, AttributeError) as error:  # `!!int text`, thousands of digits
            kind = raw.tag.rpartition(":")[2].strip("!")
            raise _at(
                raw, self.name, f"this cannot be read as a value of type {kind}; quote it if it is text"
            ) from error
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise _at(raw, self.name, f"an integer of more than {_MAX_BITS} bits; no key takes one")
        if isinstance(value, str) and not _is_text(value):
            raise _at(raw, self.name, "a text with a NUL character or half a surrogate pair; no key takes one")
        return value

    def _mapping(self, raw: yaml.Node) -> dict[str, Node]:
        seen: dict[str, int] = {}
        for key, _ in raw.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _at(key, self.name, "a key must be plain text")
            if key.value in seen and key.value != "<<":
                problem = f"the key {shortened(key.value)} stands here and in line {seen[key.value]}; keep one"
                raise _at(key, self.name, problem)
            seen[key.value] = key.start_mark.line + 1
        self.loader.flatten_mapping(raw)  # puts what `<<: *anchor` brings in front, where own keys override it
        return {key.value: self.node(value, key.start_mark.line + 1) for key, value in raw.value}
