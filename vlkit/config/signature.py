"""Signatures of constructors, and their annotations and defaults in the words of someone who writes YAML."""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from vlkit.errors import redacted
from vlkit.registry.bounds import Filled, Range

REQUIRED: Any = inspect.Parameter.empty
_SKIPPED = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)


@dataclass(frozen=True)
class Parameter:
    """One argument of a constructor.

    Args:
        name: the keyword.
        hint: its annotation, resolved; ``Any`` when there is none or it cannot be resolved.
        default: its default, or ``REQUIRED``.
    """

    name: str
    hint: Any
    default: Any

    @property
    def required(self) -> bool:
        """Return whether it has no default."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class Signature:
    """All arguments of a constructor; ``open`` says that it takes any others too (``**kwargs``)."""

    parameters: dict[str, Parameter]
    open: bool


def signature(constructor: Callable[..., Any]) -> Signature:
    """Read the keyword arguments of a class or function."""
    try:
        found = inspect.signature(constructor).parameters.values()
    except (TypeError, ValueError):  # some built-in types have none
        return Signature({}, True)
    factories, parameters = _factories(constructor), {}
    for parameter in found:
        if parameter.kind in _SKIPPED:
            continue
        make = factories.get(parameter.name)
        default = make() if make else parameter.default
        hint = _hint(constructor, parameter.name, parameter.annotation)
        parameters[parameter.name] = Parameter(parameter.name, hint, default)
    return Signature(parameters, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found))


def _factories(constructor: Callable[..., Any]) -> dict[str, Callable[[], Any]]:
    """Return the factories of the defaults of dataclass fields; the signature shows only a placeholder for them."""
    if not (isinstance(constructor, type) and dataclasses.is_dataclass(constructor)):
        return {}
    made = {}
    for field in dataclasses.fields(constructor):
        if field.default_factory is not dataclasses.MISSING:
            made[field.name] = field.default_factory
    return made


def _hint(constructor: Callable[..., Any], name: str, annotation: Any) -> Any:
    """Resolve one annotation at a time, so that one which names a type-checking import does not spoil the others."""
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    namespace = _namespace(constructor, name)
    try:
        return typing.get_type_hints(holder, namespace, namespace, include_extras=True)[name]
    except Exception:  # an annotation is arbitrary code: whatever it raises, it cannot be checked
        return Any


def _namespace(constructor: Callable[..., Any], name: str) -> dict[str, Any]:
    """Return the names that an annotation could use: those of the module that holds it."""
    if not isinstance(constructor, type):
        return getattr(inspect.unwrap(constructor), "__globals__", {})
    if dataclasses.is_dataclass(constructor):
        for base in constructor.__mro__:  # an inherited field was written in its base's module
            if name in vars(base).get("__annotations__", {}):
                return vars(sys.modules[base.__module__])
    init: Any = getattr(constructor, "__init__")  # noqa: B009  (mypy: it may be an inherited one, which is fine)
    return getattr(inspect.unwrap(init), "__globals__", {})


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
    """Return whether a class is a ``torch.nn.Module``. Without torch imported there is none."""
    torch = sys.modules.get("torch.nn")
    return torch is not None and isinstance(kind, type) and issubclass(kind, torch.Module)


def describes_model(hint: Any) -> bool:
    """Return whether an annotation is that of a model, or of a model or something else."""
    return is_model(hint) or any(map(is_model, get_args(hint)))


def type_name(hint: Any) -> str:
    """Return an annotation in words for a YAML author: ``float or null``, ``list of int``, ``'a' or 'b'``."""
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
    """Return ``float above 0, default 0.1`` or ``int, required``."""
    default = "required" if parameter.required else f"default {short(parameter.default)}"
    return f"{type_name(parameter.hint)}, {default}"


def short(value: Any) -> str:
    """Return ``repr`` as YAML would spell it, cut to 60 characters."""
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, (NONE, bool)) else None
    text = text or redacted(str(value) if hasattr(value, "FORMS") else repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
