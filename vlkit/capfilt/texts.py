"""The web's caption of a sample, from its text file or its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlkit.capfilt.inputs import InputOptions, Refused
from vlkit.datasets.annotation_formats import short

DEEPEST = 100
"""Levels of JSON. How many Python manages depends on where it stands, and what is read must not."""
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class Fault(NamedTuple):
    """Why something cannot be used: one of ``REASONS``, and what is known beyond that."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class TextFile:
    """A file of a sample that is not read yet.

    Args:
        size: bytes.
        read: gives them.
    """

    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class WebText:
    """What the files beside an image say.

    Args:
        text: the caption; None where ``refused`` says why.
        fields: the other data of the JSON.
        refused: what cannot be used.
    """

    text: str | None
    fields: dict[str, Any]
    refused: list[Refused]


def web_text(key: str, files: dict[str, TextFile], options: InputOptions) -> WebText:
    """The caption and other data of a sample.

    Args:
        key: of the sample.
        files: "txt", "json", both or none. The one that ``options.text`` names counts, else the other.
        options: limits.
    """
    source = options.text if options.text in files else next(iter(files), None)
    refused: list[Refused] = []
    data = _mapping(files["json"], options) if "json" in files else {}
    fields = {} if isinstance(data, Fault) else data
    if isinstance(data, Fault) and source == "txt":
        refused.append(Refused(key, "fields", *data))
    found: str | Fault
    if source is None:
        found = Fault("no text", "neither a .txt nor a .json file")
    elif source == "txt":
        found = _plain(files["txt"], options)
    else:
        found = data if isinstance(data, Fault) else caption(data, options)
    others = {name: value for name, value in fields.items() if name != options.caption_key}
    if isinstance(found, Fault):
        return WebText(None, others, [*refused, Refused(key, "text", *found)])
    return WebText(found, others, refused)


def caption(fields: dict[str, Any], options: InputOptions) -> str | Fault:
    """The caption in a mapping: a text, or the first that is not empty of a list of them."""
    if options.caption_key not in fields:
        return Fault("no text", f"no key {options.caption_key!r}")
    given = fields[options.caption_key]
    texts = [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, str)]
    # Half of a surrogate pair, as cut-off emoji leave it in JSON, is no text: tokenizers fail on it.
    texts = [each.encode("utf-8", "replace").decode().strip() for each in texts]
    text = next(filter(None, texts), "")
    if len(text.encode()) > options.max_text_bytes:
        return too_large(len(text.encode()), options)
    return text or Fault("no text", f"{options.caption_key!r} is {short(given)}")


def parsed(data: bytes) -> Any:
    """What a JSON text holds, or the :class:`Fault` in it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _not_utf8(error)
    if text.count("[") + text.count("{") > DEEPEST and _depth(text) > DEEPEST:
        return Fault("unreadable text", f"JSON of more than {DEEPEST} levels")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return Fault("unreadable text", f"not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}")
    except ValueError:
        return Fault("unreadable text", "a number with thousands of digits")


def too_large(size: int, options: InputOptions) -> Fault:
    """The fault of a text of ``size`` bytes."""
    return Fault("oversized text", f"{size} bytes, {options.max_text_bytes} allowed")


def _depth(text: str) -> int:
    deepest = depth = 0
    for found in _BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        deepest = max(deepest, depth)
    return deepest


def _mapping(file: TextFile, options: InputOptions) -> dict[str, Any] | Fault:
    if file.size > options.max_text_bytes:
        return too_large(file.size, options)
    data = parsed(file.read())
    if isinstance(data, (dict, Fault)):
        return data
    return Fault("unreadable text", f"its JSON is {short(data)}, not a mapping")


def _plain(file: TextFile, options: InputOptions) -> str | Fault:
    if file.size > options.max_text_bytes:
        return too_large(file.size, options)
    try:
        text = file.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        return _not_utf8(error)
    return text or Fault("no text", "the text is empty")


def _not_utf8(error: UnicodeDecodeError) -> Fault:
    return Fault("unreadable text", f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}")
