"""Checks values from YAML against annotations and turns them into what the annotations say."""

from __future__ import annotations

import dataclasses
import enum
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from vlkit.config.old_keys import REMOVED, new_key
from vlkit.config.signature import MAPPINGS, NONE, SEQUENCES, Signature, describe_parameter, short, signature, type_name
from vlkit.errors import VlkitError, closest, did_you_mean
from vlkit.registry.bounds import LARGEST_SEED, Filled, Range, is_finite, number

_ADDRESS = re.compile(r"(?!data://)[A-Za-z][A-Za-z0-9+.-]+://")  # data:// is replaced before a part is built
_DETAILED = 10  # up to this number of allowed keys, they are listed with their types
Problems = list[tuple[str, str]]
"""(key path, sentence) for each mistake."""


def convert(value: Any, hint: Any, path: str, problems: Problems) -> Any:
    """Convert ``value`` to what ``hint`` says; add mistakes to ``problems`` and return None.

    Args:
        value: what YAML gave.
        hint: an annotation.
        path: key path of the value.
        problems: added to.
    """
    if hint is Any or hint is object or isinstance(hint, (TypeVar, str)):
        return value
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(value, hint, args, path, problems)
    if origin in (Union, types.UnionType):
        return _union(value, hint, args, path, problems)
    if origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in args):
            return value
        return _wrong(value, hint, path, problems, did_you_mean(value, args) if isinstance(value, str) else "")
    base = origin or hint
    if base in SEQUENCES:
        return _sequence(value, hint, SEQUENCES[base], args, path, problems)
    if base is tuple:
        return _tuple(value, hint, args, path, problems)
    if base in MAPPINGS:
        return _mapping(value, hint, args, path, problems)
    if isinstance(base, type):
        return _single(value, base, path, problems)
    return value  # Callable, NewType and other rare annotations are not checked


def arguments(
    taken: Signature,
    mapping: Mapping[str, Any],
    path: str,
    problems: Problems,
    provided: Collection[str] = (),
    configured: Collection[str] = (),
) -> dict[str, Any]:
    """Check and convert the keyword arguments that ``mapping`` gives.

    Args:
        taken: of the constructor.
        mapping: what the config holds.
        path: key path of ``mapping``.
        problems: added to: unknown, missing and wrong keys.
        provided: arguments that the caller fills in; the config must not.
        configured: those of them that the caller made of keys of the config, which messages may name.
    """
    converted = {}
    for key, value in mapping.items():
        here = f"{path}.{key}" if path else str(key)
        if key in provided:
            problems.append((here, f"{key!r} is filled in by vlkit and cannot be configured; remove it."))
        elif key in taken.parameters:
            converted[key] = convert(value, taken.parameters[key].hint, here, problems)
        elif taken.open:
            converted[key] = value
        elif (new := new_key(here)) in taken.parameters:
            problems.append((here, f"the key {key!r} is now named {new!r}."))
        elif here in REMOVED:
            problems.append((here, f"the key {key!r} was removed: {REMOVED[here][1]}"))
        else:
            problems.append((here, f"unknown key {key!r}.{_allowed(str(key), taken, set(provided) - set(configured))}"))
    for name, parameter in taken.parameters.items():
        if parameter.required and name not in mapping and name not in provided:
            problems.append((path, f"the key {name!r} ({type_name(parameter.hint)}) is missing."))
    return converted


def _allowed(key: str, taken: Signature, hidden: Collection[str]) -> str:
    known = [p for p in taken.parameters.values() if p.name not in hidden]
    if not known:
        return " No keys are allowed here."
    near = closest(key, [p.name for p in known])
    detailed = [p.name for p in known] if len(known) <= _DETAILED else near
    listed = ", ".join(f"{p.name} ({describe_parameter(p)})" if p.name in detailed else p.name for p in known)
    return f"{did_you_mean(key, [p.name for p in known])} Allowed: {listed}."


def _wrong(value: Any, hint: Any, path: str, problems: Problems, hint_text: str = "") -> None:
    kind = {dict: "mapping", list: "list", NONE: "null"}.get(type(value), type(value).__name__)
    given = kind if value is None else f"{short(value)} ({kind})"
    problems.append((path, f"{given} given, {type_name(hint)} allowed.{hint_text or _advice(value, hint)}"))


def _advice(value: Any, hint: Any) -> str:
    kinds = [hint, *get_args(hint)]
    kinds += [inner for kind in kinds for inner in get_args(kind)]  # Annotated inside a union
    if isinstance(value, str) and value.lower() in ("true", "yes", "on", "false", "no", "off") and bool in kinds:
        return f" Write {'true' if value.lower() in ('true', 'yes', 'on') else 'false'}, without quotes."
    if isinstance(value, str) and (int in kinds or float in kinds):
        try:
            float(value)
        except ValueError:
            return ""
        return " Write the number without quotes."
    if isinstance(value, str) and Path in kinds:
        return _no_path(value)
    if isinstance(value, float) and int in kinds and value.is_integer():
        return f" Write {int(value)}."
    return ""


def _no_path(value: str) -> str:
    """Return why a text is no path of this machine; "": it is one."""
    if not value.strip():
        return " A path is needed, or null where there is a default."
    return " An address cannot be used here." if _ADDRESS.match(value) else ""


def _annotated(value: Any, hint: Any, args: tuple[Any, ...], path: str, problems: Problems) -> Any:
    if type(value) in (int, float) and args[0] is float and not is_finite(value):
        return _wrong(value, hint, path, problems, " A finite number is needed.")
    before = len(problems)
    converted = convert(value, args[0], path, problems)
    if len(problems) > before or converted is None:
        return converted
    for mark in (mark for mark in args[1:] if isinstance(mark, (Range, Filled))):
        if converted not in mark:
            exceeded = isinstance(mark, Range) and mark.technical and converted > mark.high
            limit = f" It may be at most {number(mark.high)}." if isinstance(mark, Range) and exceeded else ""
            return _wrong(value, hint, path, problems, limit)
    return converted


def _union(value: Any, hint: Any, args: tuple[Any, ...], path: str, problems: Problems) -> Any:
    attempts: dict[Any, Problems] = {}
    for member in sorted(args, key=lambda member: type(value) is not member):  # 3 stays an int for `float | int`
        found = attempts[member] = []
        converted = convert(value, member, path, found)
        if not found:
            return converted
    deeper = [found for found in attempts.values() if any(where != path for where, _ in found)]
    others = [member for member in args if member is not NONE]
    if len(deeper) == 1:  # the one member of the right shape: what is wrong inside it
        problems.extend(deeper[0])
    elif len(others) == 1 and hasattr(others[0], "parse"):
        problems.extend(attempts[others[0]])
    elif isinstance(value, Mapping) and len(built := [each for each in others if dataclasses.is_dataclass(each)]) == 1:
        problems.extend(attempts[built[0]])  # what its constructor says
    else:
        _wrong(value, hint, path, problems)
    return None


def _sequence(
    value: Any,
    hint: Any,
    make: Callable[[Iterable[Any]], Any],
    args: tuple[Any, ...],
    path: str,
    problems: Problems,
) -> Any:
    if not isinstance(value, (list, tuple)):
        return _wrong(value, hint, path, problems, " Put it in brackets: [...]." if value is not None else "")
    item = args[0] if args else Any
    return make([convert(entry, item, f"{path}.{index}", problems) for index, entry in enumerate(value)])


def _tuple(value: Any, hint: Any, args: tuple[Any, ...], path: str, problems: Problems) -> Any:
    if not args or args[1:] == (Ellipsis,):
        return _sequence(value, hint, tuple, args, path, problems)
    if not isinstance(value, (list, tuple)) or len(value) != len(args):
        return _wrong(value, hint, path, problems)
    entries = zip(value, args)
    return tuple(convert(entry, arg, f"{path}.{i}", problems) for i, (entry, arg) in enumerate(entries))


def _mapping(value: Any, hint: Any, args: tuple[Any, ...], path: str, problems: Problems) -> Any:
    if not isinstance(value, Mapping):
        return _wrong(value, hint, path, problems)
    item = args[1] if args else Any
    return {key: convert(entry, item, f"{path}.{key}", problems) for key, entry in value.items()}


def _single(value: Any, kind: type, path: str, problems: Problems) -> Any:
    """Convert a value for a plain class."""
    if kind is NONE:
        return None if value is None else _wrong(value, kind, path, problems)
    if kind is float and type(value) in (int, float):
        finite = " A finite number is needed."
        return float(value) if is_finite(value) else _wrong(value, kind, path, problems, finite)
    if kind is int and type(value) is int and abs(value) > LARGEST_SEED:
        return _wrong(value, kind, path, problems, f" It may be at most {LARGEST_SEED}.")
    if kind in (bool, int, float, str):
        return value if type(value) is kind else _wrong(value, kind, path, problems)
    if hasattr(kind, "parse"):
        return _attempt(lambda: value if type(value) is kind else kind.parse(value), path, problems)
    if issubclass(kind, enum.Enum):
        for member in kind:
            if value is member or value == member.value or value == member.name:
                return member
        return _wrong(value, kind, path, problems, did_you_mean(value, [member.name for member in kind]))
    if issubclass(kind, Path) and isinstance(value, str):
        return _wrong(value, kind, path, problems) if _no_path(value) else kind(value)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        before = len(problems)
        given = arguments(signature(kind), value, path, problems)
        return _attempt(lambda: kind(**given), path, problems) if len(problems) == before else None
    try:
        fits = isinstance(value, kind)
    except TypeError:  # a Protocol that cannot be tested at run time
        fits = True
    return value if fits else _wrong(value, kind, path, problems)


def _attempt(make: Callable[[], Any], path: str, problems: Problems) -> Any:
    try:
        return make()
    except (VlkitError, ValueError) as error:
        problems.extend((path, problem) for problem in getattr(error, "problems", [str(error)]))
        return None
