"""Finds what the syntax of JSON allows and vlkit does not: deep nesting, long integers, NaN, infinite numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

DEEPEST = 100
"""Levels of nesting. How many Python manages depends on its version and on the caller, and what is read must not."""
LONGEST = 1000
"""Digits of an integer."""

INFINITE = (float("inf"), float("-inf"))
_STRIDE = 10  # of a look for long integers: more than LONGEST digits show as LONGEST / _STRIDE of them
_SAMPLED = re.compile(rf"[0-9]{{{LONGEST // _STRIDE}}}")
_LARGE = 1 << 20  # characters of a text that surely has many brackets
_CONSTANT = re.compile(r"NaN|-?Infinity")
_BRACKET = re.compile(r"[\[\]{}]")
_NUMBER = re.compile(  # that may be too large
    r"(?<![0-9.eE+])-?(?:[0-9]{300,}(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]{2,})"
)
_STRING = re.compile(rb'"[^"]*"')
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
TOO_DEEP = f"it is nested deeper than {DEEPEST} levels"
INSTEAD = "8" * (LONGEST + 1)  # stands for what is nested too deep


def too_deep(text: str) -> bool:
    """Return whether brackets outside of strings are nested deeper than ``DEEPEST``."""
    if len(text) < _LARGE and text.count("[") + text.count("{") <= DEEPEST:
        return False
    data = text.encode("utf-8", "surrogatepass")
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    data = data.translate(_TO_SQUARE, _NO_STRUCTURE).replace(b'""', b"")
    if b'"' in data:
        data = _STRING.sub(b"", data)
    for _ in range(DEEPEST):
        shorter = data.replace(b"[]", b"")
        if len(shorter) == len(data):
            break
        data = shorter
    return b"[]" in data or data.count(b"[") > DEEPEST  # the latter: never closed


def long_integer(text: str) -> bool:
    """Return whether an integer outside of strings has more than ``LONGEST`` digits."""
    if len(text) <= LONGEST or not _SAMPLED.search(text[::_STRIDE]):
        return False
    return any(found[0].lstrip("-").isdigit() and number_fault(found[0]) for found in _outside(text, _NUMBER))


def _outside(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Yield what ``pattern`` finds outside of the strings of a JSON text."""
    if "\\" in text:  # of the same length, so that places stay
        text = text.replace("\\\\", "xx").replace('\\"', "xx")
    quotes, at = 0, 0
    for found in pattern.finditer(text):
        quotes, at = quotes + text.count('"', at, found.start()), found.start()
        if quotes % 2 == 0:
            yield found


def _deep(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of the values at level ``DEEPEST`` that hold other values."""
    depth = start = 0
    for found in _outside(text, _BRACKET):
        if found[0] in "[{":
            depth += 1
            if depth == DEEPEST + 1:
                start = found.start()
        else:
            if depth == DEEPEST + 1:
                yield start, found.end()
            depth -= 1
    if depth > DEEPEST:
        yield start, len(text)


def without_deep(text: str) -> str:
    """Return the text with an integer of its own in place of each value that is nested too deep."""
    if not too_deep(text):
        return text
    parts, at = [], 0
    for start, end in _deep(text):
        parts += [text[at:start], INSTEAD]
        at = end
    return "".join([*parts, text[at:]])


def place_of_fault(text: str) -> str:
    """Return a sentence: the first thing in a text of valid syntax that is not accepted, with line and column."""
    faults = []
    deep = next(_deep(text), None) if too_deep(text) else None
    if deep:
        faults.append((deep[0], TOO_DEEP))
    constant = next(_outside(text, _CONSTANT), None)
    if constant:
        faults.append((constant.start(), f"it holds {constant[0]}, which JSON does not have"))
    for found in _outside(text, _NUMBER):
        if number_fault(found[0]):
            faults.append((found.start(), number_fault(found[0])))
            break
    if not faults:  # the caller is deep in the stack already
        return f"{TOO_DEEP}."
    at, reason = min(faults)
    return f"{reason} (line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)})."


def number_fault(digits: str) -> str:
    """Return why a number is not accepted, or ""."""
    shown = digits if len(digits) <= 20 else f"{digits[:17]}..."
    if not digits.lstrip("-").isdigit():
        return f"it holds the number {shown}, which is too large for a float" if float(digits) in INFINITE else ""
    count = len(digits.lstrip("-"))
    return f"it holds an integer of {count} digits ({shown}); {LONGEST} are allowed" if count > LONGEST else ""
