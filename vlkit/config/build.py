"""Builds what a mapping names. The constructor's signature is the schema."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vlkit.config.convert import Problems, arguments
from vlkit.config.signature import describe_parameter, short, signature
from vlkit.errors import ConfigError, RegistryError, closest
from vlkit.registry import PROCESSORS, Registry

Constructor = Callable[..., Any]
Origin = Callable[[str], str]
"""Key path to the text in front of a problem: :meth:`vlkit.config.load.Config.origin`."""


def build(
    kind: Registry | Constructor,
    mapping: Mapping[str, Any],
    where: str = "",
    origin: Origin = str,
    **provided: Any,
) -> Any:
    """Build the object that ``mapping`` describes.

    Args:
        kind: a registry, in which ``mapping["name"]`` is looked up, or the class or function itself.
        mapping: ``name`` and constructor arguments, or arguments alone.
        where: key path of ``mapping`` ("model"), for messages.
        origin: says where a key path was written.
        **provided: arguments that the caller passes on; the mapping must not name them.

    Raises:
        ConfigError: everything that is wrong with the mapping, at once.
    """
    constructor, given, problems = _prepare(kind, mapping, where, tuple(provided))
    if constructor is None or problems:
        raise ConfigError(_sentences(problems, origin))
    return constructor(**given, **provided)


def check(
    kind: Registry | Constructor,
    mapping: Mapping[str, Any],
    where: str = "",
    origin: Origin = str,
    provided: Collection[str] = (),
    configured: Collection[str] = (),
) -> list[str]:
    """Return the problems for which :func:`build` would refuse ``mapping``; build nothing.

    Args:
        provided: names of the arguments that the caller would pass on.
        configured: those of them that the caller makes of further keys of the mapping.
    """
    return _sentences(_prepare(kind, mapping, where, provided, configured)[2], origin)


def name_problems(registry: Registry, mapping: Mapping[str, Any], where: str, origin: Origin = str) -> list[str]:
    """Return what is wrong with the ``name`` in ``mapping``: it is missing, no text, or not registered."""
    problems: Problems = []
    _look_up(registry, dict(mapping), where, problems)
    return _sentences(problems, origin)


def processor_problems(mapping: Mapping[str, Any], where: str, origin: Origin = str) -> list[str]:
    """Return the processors in ``mapping`` that are neither a mapping nor null: a name alone would stay a text."""
    problems = []
    for key, value in mapping.items():
        if key.endswith("_processor") and value is not None and not isinstance(value, Mapping):
            form = f"{{name: {value}}}" if isinstance(value, str) and value in PROCESSORS else "{name: ...}"
            problems.append(f"{origin(f'{where}.{key}')}: {short(value)} given, a mapping is needed: {form}.")
    return problems


def accepts(constructor: Constructor, name: str) -> bool:
    """Return whether ``constructor`` takes the keyword ``name``."""
    taken = signature(constructor)
    return taken.open or name in taken.parameters


def describe(registry: Registry, name: str) -> str:
    """Describe what is registered as ``name``: first line of its docstring, and its keys with types and defaults.

    Raises:
        RegistryError: there is no such name.
    """
    constructor = registry.get(name)
    taken = signature(constructor)
    summary = (inspect.getdoc(constructor) or "").partition("\n")[0]
    lines = [f"{registry.kind} {name} ({constructor.__module__}.{constructor.__qualname__})"]
    if summary:
        lines.append(summary)
    for parameter in taken.parameters.values():
        lines.append(f"  {parameter.name}: {describe_parameter(parameter)}")
    if taken.open:
        lines.append("  and any other key")
    return "\n".join(lines)


def _prepare(
    kind: Registry | Constructor,
    mapping: Mapping[str, Any],
    where: str,
    provided: Collection[str],
    configured: Collection[str] = (),
) -> tuple[Constructor | None, dict[str, Any], Problems]:
    problems: Problems = []
    if not isinstance(mapping, Mapping):
        return None, {}, [(where, f"{short(mapping)} given, a mapping (key: value) is needed.")]
    given = dict(mapping)
    constructor: Constructor | None = None
    if isinstance(kind, Registry):
        constructor = _look_up(kind, given, where, problems)
    else:
        constructor = kind
    if constructor is None:
        return None, {}, problems
    return constructor, arguments(signature(constructor), given, where, problems, provided, configured), problems


def _look_up(registry: Registry, given: dict[str, Any], where: str, problems: Problems) -> Constructor | None:
    """Take ``name`` out of ``given`` and look it up."""
    if "name" not in given:
        near = closest("name", [key for key, value in given.items() if isinstance(value, str)])
        hint = f" Is {near[0]!r} meant?" if near else ""
        known = ", ".join(registry.names())
        problems.append((where, f"the key 'name' is missing: which {registry.kind}?{hint} Known: {known}."))
        return None
    name = given.pop("name")
    here = f"{where}.name" if where else "name"
    if not isinstance(name, str):
        problems.append((here, f"{short(name)} given, the name of a {registry.kind} is needed: a text."))
        return None
    try:
        return registry.get(name)
    except RegistryError as error:
        problems.append((here, str(error)))
        return None


def _sentences(problems: Problems, origin: Origin) -> list[str]:
    return [f"{prefix}: {text}" if (prefix := origin(path)) else text for path, text in problems]
