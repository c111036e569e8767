"""What a constructor takes: names, types and defaults, read from its signature."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        """Whether it has no default."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class Signature:
    """All arguments of a constructor; ``open`` says that it takes any others too (``**kwargs``)."""

    parameters: dict[str, Parameter]
    open: bool


def signature(constructor: Callable[..., Any]) -> Signature:
    """The keyword arguments of a class or function."""
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
    """What makes the defaults of dataclass fields; the signature shows only a placeholder for them."""
    if not (isinstance(constructor, type) and dataclasses.is_dataclass(constructor)):
        return {}
    made = {}
    for field in dataclasses.fields(constructor):
        if field.default_factory is not dataclasses.MISSING:
            made[field.name] = field.default_factory
    return made


def _hint(constructor: Callable[..., Any], name: str, annotation: Any) -> Any:
    """One annotation at a time, so that one which names a type-checking import does not spoil the others."""
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    namespace = _namespace(constructor, name)
    try:
        return typing.get_type_hints(holder, namespace, namespace, include_extras=True)[name]
    except Exception:  # an annotation is arbitrary code: whatever it raises, it cannot be checked
        return Any


def _namespace(constructor: Callable[..., Any], name: str) -> dict[str, Any]:
    """The names that an annotation could use: those of the module that holds it."""
    if not isinstance(constructor, type):
        return getattr(inspect.unwrap(constructor), "__globals__", {})
    if dataclasses.is_dataclass(constructor):
        for base in constructor.__mro__:  # an inherited field was written in its base's module
            if name in vars(base).get("__annotations__", {}):
                return vars(sys.modules[base.__module__])
    init: Any = getattr(constructor, "__init__")  # noqa: B009  (mypy: it may be an inherited one, which is fine)
    return getattr(inspect.unwrap(init), "__globals__", {})
