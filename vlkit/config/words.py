"""Annotations, defaults and values in the words of someone who writes YAML."""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import enum
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from vlkit.config.signature import Parameter
from vlkit.errors import redacted
from vlkit.registry.bounds import Filled, Range

SEQUENCES = {
    list: list,
    abc.Sequence: list,
    abc.Iterable: list,
    abc.Collection: list,
    set: set,
    frozenset: frozenset,
}
MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
NONE = type(None)


def is_model(kind: Any) -> bool:
    """Whether a class is a model: ``torch.nn.Module`` or made from it. Nobody names it without importing torch."""
    torch = sys.modules.get("torch.nn")
    return torch is not None and isinstance(kind, type) and issubclass(kind, torch.Module)


def describes_model(hint: Any) -> bool:
    """Whether an annotation is that of a model, or of a model or something else."""
    return is_model(hint) or any(map(is_model, get_args(hint)))


def type_name(hint: Any) -> str:
    """An annotation in words a YAML author can use: ``float or null``, ``list of int``, ``'a' or 'b'``."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in (Any, object) or isinstance(hint, (TypeVar, str)):
        return "any value"
    if hint in (None, NONE):
        return "null"
    if origin is Annotated:
        return " ".join(
            filter(None, [type_name(args[0]), *(str(mark) for mark in args[1:] if isinstance(mark, (Range, Filled)))])
        )
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(arg) for arg in args))
    if origin is Literal:
        return " or ".join(repr(choice) for choice in args)
    base = origin or hint
    if base in SEQUENCES:
        return f"list of {type_name(args[0])}" if args else "list"
    if base is tuple:
        if args[1:] == (Ellipsis,):
            return f"list of {type_name(args[0])}"
        return f"[{', '.join(type_name(arg) for arg in args)}]" if args else "list"
    if base in MAPPINGS:
        return f"mapping of {type_name(args[1])}" if args else "mapping"
    if isinstance(base, type):
        return _class_name(base)
    return str(hint)


def _class_name(kind: type) -> str:
    if issubclass(kind, enum.Enum):
        return " or ".join(repr(member.name) for member in kind)
    if issubclass(kind, Path):
        return "path"
    if hasattr(kind, "parse") and hasattr(kind, "FORMS"):
        return kind.__name__.lower()
    if is_model(kind):
        return "model ({name: ..., type: ..., weights: ...})"
    return f"mapping ({kind.__name__})" if dataclasses.is_dataclass(kind) else kind.__name__


def describe_parameter(parameter: Parameter) -> str:
    """``float above 0, default 0.1`` or ``int, required``."""
    default = "required" if parameter.required else f"default {short(parameter.default)}"
    return f"{type_name(parameter.hint)}, {default}"


def short(value: Any) -> str:
    """``repr`` as YAML would spell it, cut to 60 characters."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, (NONE, bool)) else None
    text = text or redacted(str(value) if hasattr(value, "FORMS") else repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
