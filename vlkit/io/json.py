"""Read JSON of unknown origin strictly, with one kind of error for everything that can be wrong, and write it.

Python's ``json`` accepts NaN and Infinity, turns 1e999 into infinity, and raises other exceptions than that of invalid
JSON for deep nesting, long integers and wrong encodings. Written JSON has null for numbers that are not finite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from vlkit.io.json_faults import (
    INFINITE,
    INSTEAD,
    TOO_DEEP,
    long_integer,
    number_fault,
    place_of_fault,
    too_deep,
    without_deep,
)
from vlkit.io.text import TextError, decode, kind_of

Hook = Callable[[dict[str, Any]], Any]


class JsonError(TextError):
    """A text that is not valid JSON, or holds what JSON has no numbers for.

    ``more`` is True where a complete value is followed by something else, as in JSON lines.
    """

    more = False


class BadRow(NamedTuple):
    """A row that cannot be used, in place of its data.

    Args:
        reason: why, without a full stop.
    """

    reason: str


class _Unfit(ValueError):
    """A number that is not accepted."""


class _Mark:
    """A number that is not accepted, in place of its value."""

    def __init__(self, reason: str):
        self.reason = reason

    def __repr__(self) -> str:
        return self.reason


def parse_json(text: str | bytes, source: str, object_hook: Hook | None = None) -> Any:
    """Parse a JSON text.

    Args:
        text: characters, or bytes in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
        source: named in errors: a path, or "path:line".
        object_hook: as in :func:`json.loads`.

    Raises:
        JsonError: a :class:`~vlkit.errors.DataError` "source: reason". The text is not valid JSON, is nested deeper
            than 100 levels, or holds NaN, Infinity, a number too large for a float, or an integer of more than
            1000 digits.
        TextError: the bytes are no text.
    """
    text = _text(text, source)
    try:
        return _fast(text, object_hook)
    except json.JSONDecodeError as error:
        raise _syntax(error, source) from error
    except (ValueError, RecursionError) as error:
        raise JsonError(source, place_of_fault(text)) from error


def parse_rows(text: str | bytes, source: str, object_hook: Hook | None = None) -> Any:
    """Parse a JSON text that holds rows, each of which may be bad without harm to the others.

    Rows are the elements of lists: of the list that the text is, or of those that a mapping holds, however deep in
    mappings (COCO's ``images`` and ``annotations``). A row that holds NaN, Infinity, a number too large, or that is
    nested too deep becomes a :class:`BadRow`.

    Args:
        text, source, object_hook: as in :func:`parse_json`. The hook may meet a bad number as an object of a type of
            its own.

    Raises:
        JsonError: what is wrong is no row, or makes the rest unreadable; the message names the row where it happened.
        TextError: the bytes are no text.
    """
    text = _text(text, source)
    deep, marks = too_deep(text), list[_Mark]()
    shallow = without_deep(text) if deep else text
    try:
        data = _marking(object_hook, marks, deep or long_integer(text)).decode(shallow)
    except json.JSONDecodeError as error:
        if deep:  # places are those of another text
            row = _row_of(text, len(text))
            raise JsonError(source, f"row {row}: " * bool(row) + place_of_fault(text)) from error
        raise _syntax(error, source, _row_of(text, error.pos)) from error
    except RecursionError as error:  # the caller is deep in the stack already
        raise JsonError(source, f"{TOO_DEEP}.") from error
    return _sealed(data, source) if marks else data


def _text(text: str | bytes, source: str) -> str:
    if isinstance(text, bytes):
        kind = kind_of(text)
        if kind:
            raise TextError(source, f"it is {kind}, not JSON.")
        return decode(text, source)
    return text.removeprefix("\ufeff")


def _fast(text: str, hook: Hook | None) -> Any:
    if long_integer(text) or too_deep(text):
        raise _Unfit
    decoder = (
        _STRICT if hook is None else json.JSONDecoder(object_hook=hook, parse_float=_finite, parse_constant=_refused)
    )
    return decoder.decode(text)


def _finite(digits: str) -> float:
    value = float(digits)
    if value in INFINITE:
        raise _Unfit(digits)
    return value


def _refused(name: str) -> Any:
    raise _Unfit(name)


_STRICT = json.JSONDecoder(parse_float=_finite, parse_constant=_refused)


def _marking(hook: Hook | None, marks: list[_Mark], integers: bool) -> json.JSONDecoder:
    """Return a decoder that puts a mark in place of each number that is not accepted.

    Args:
        marks: receives all marks.
        integers: whether there may be some among integers. To see each one takes time.
    """

    def marked(reason: str) -> _Mark:
        marks.append(_Mark(reason))
        return marks[-1]

    def constant(name: str) -> Any:
        return marked(f"it holds {name}, which JSON does not have")

    def real(digits: str) -> Any:
        value = float(digits)
        return marked(number_fault(digits)) if value in INFINITE else value

    def integer(digits: str) -> Any:
        fault = TOO_DEEP if digits == INSTEAD else number_fault(digits)
        return marked(fault) if fault else int(digits)

    return json.JSONDecoder(
        object_hook=hook, parse_float=real, parse_int=integer if integers else None, parse_constant=constant
    )


def _syntax(error: json.JSONDecodeError, source: str, row: int = 0) -> JsonError:
    text, where = error.doc, f"not valid JSON at line {error.lineno}, column {error.colno}"
    if row:
        where = f"row {row} is {where}"
    if not text.strip():
        return JsonError(source, "it is empty, where JSON is needed.")
    if text.lstrip()[:1] == "<":
        return JsonError(source, "it is a web page or XML, not JSON. Was an error page saved in place of the file?")
    if text[error.pos : error.pos + 1] == "\0":
        return JsonError(source, f"{where}: a NUL byte. The file is damaged, or not finished.")
    if error.pos >= len(text.rstrip()):
        return JsonError(source, f"{where}: it ends too early ({error.msg}). The file is cut off.")
    found = JsonError(source, f"{where}: {error.msg}.")
    found.more = error.msg == "Extra data"
    return found


def _row_of(text: str, place: int) -> int:
    """Return the number of the element at ``place`` of the list that ``text`` is, from 1; 0: it is no list."""
    at = len(text) - len(text.lstrip())
    if text[at : at + 1] != "[":
        return 0
    decoder, row, at = _marking(None, [], True), 1, at + 1
    while True:
        while text[at : at + 1] in (" ", "\t", "\n", "\r"):
            at += 1
        try:
            at = decoder.raw_decode(text, at)[1]
        except (ValueError, RecursionError):
            return row
        while text[at : at + 1] in (" ", "\t", "\n", "\r"):
            at += 1
        if text[at : at + 1] != "," or at >= place:
            return row
        row, at = row + 1, at + 1


def _sealed(data: Any, source: str) -> Any:
    """Return the data with a :class:`BadRow` in place of each row that holds a mark."""
    if isinstance(data, _Mark):
        raise JsonError(source, f"{data.reason}.")
    if isinstance(data, list):
        for place, row in enumerate(data):
            mark = _mark_in(row)
            if mark:
                data[place] = BadRow(mark.reason)
    elif isinstance(data, dict):
        for key, value in data.items():
            data[key] = _sealed(value, f"{source}: {key!r}" if isinstance(value, _Mark) else source)
    return data


def number_fault_in(value: Any) -> str:
    """Return why a value that the hook of :func:`parse_rows` met holds a number that is not accepted, a sentence; or
    ""."""
    mark = _mark_in(value)
    return f"{mark.reason}." if mark else ""


def _mark_in(value: Any) -> _Mark | None:
    """Return the first mark in a value, which is nested no deeper than ``DEEPEST`` levels."""
    if isinstance(value, _Mark):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_mark_in, inner)), None)


def finite_or_none(content: Any) -> Any:
    """Return ``content`` with None in place of numbers that are not finite.

    Tuples become lists; keys that are no text become the text that :func:`json.dumps` would write.
    """
    if isinstance(content, dict):
        return {_key(key): finite_or_none(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite_or_none(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def json_text(content: Any, indent: int | None = None) -> str:
    """Return ``content`` as JSON, in ASCII.

    Args:
        content: plain data. Anything else (a date, a NumPy number) is written as its text.
        indent: spaces per level; None: one line.
    """
    return json.dumps(finite_or_none(content), indent=indent, allow_nan=False, default=str)


def _key(key: Any) -> Any:
    """Return the name of a member: a float that is not finite would be named NaN by ``json.dumps``."""
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key
