"""Find the captions of a sample, in its text file, its JSON or the columns of its row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlkit.capfilt.inputs import InputOptions, Refused
from vlkit.datasets.columns import CAPTION, IMAGE, Column, ColumnKeys, TableColumns
from vlkit.datasets.faults import short
from vlkit.datasets.shard_files import IMAGES
from vlkit.errors import DataError
from vlkit.io.json import parse_json
from vlkit.io.text import TextError, decode

MOST_CAPTIONS = 1000
"""Of an image."""


class Fault(NamedTuple):
    """Reason why something cannot be used (one of ``REASONS``), with a detail."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class TextFile:
    """A file of a sample, read on demand.

    Args:
        size: bytes.
        read: gives them.
    """

    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class WebText:
    """The content of the text files next to an image.

    Args:
        texts: the captions; where there is none ``refused`` says why.
        fields: the other data of the JSON.
        refused: what cannot be used.
    """

    texts: tuple[str, ...]
    fields: dict[str, Any]
    refused: list[Refused]


def web_text(key: str, files: dict[str, TextFile], keys: RowKeys, options: InputOptions) -> WebText:
    """Read the captions and other data of a sample.

    Args:
        key: of the sample.
        files: "txt", "json", both or none. The one that ``options.text`` names counts, and the other where that is
            missing or empty. Where the JSON has a list of captions, both count.
        keys: of the captions in the JSON.
        options: limits.
    """
    data = _mapping(files["json"], options) if "json" in files else {}
    fields = {} if isinstance(data, Fault) else data
    sources: dict[str, list[str | Fault]] = {}
    if "txt" in files:
        sources["txt"] = [_plain(files["txt"], options)]
    if "json" in files:
        sources["json"] = [data] if isinstance(data, Fault) else captions(data, keys, options)
    used = _used(sources, options.text, _is_list(fields, keys))
    found = [Fault("no text", "neither a .txt nor a .json file")] if not used else sources[used[0]]
    for other in used[1:]:
        found = [*found, *(each for each in sources[other] if each not in found)]
    refused = [Refused(key, "fields", *data)] if isinstance(data, Fault) and "json" not in used else []
    refused += [Refused(key, "text", *each) for each in found if isinstance(each, Fault)]
    texts = tuple(each for each in found if isinstance(each, str))
    return WebText(texts, _without_caption(fields, keys, "json" in used), refused)


def _used(sources: dict[str, list[str | Fault]], first: str, listed: bool) -> list[str]:
    """Choose the sources that count; ``listed``: the JSON has a list of captions."""
    order = sorted(sources, key=lambda name: name != first)
    if len(order) == 2:
        empty = [all(isinstance(each, Fault) and each.reason == "no text" for each in sources[name]) for name in order]
        if not any(empty) and listed:
            return order
        if empty == [True, False] and any(isinstance(each, str) for each in sources[order[1]]):
            return order[1:]
    return order[:1]


def _is_list(fields: dict[str, Any], keys: RowKeys) -> bool:
    with contextlib.suppress(Ambiguous):
        return isinstance(fields.get(keys.caption(fields) or ""), list)
    return False


def _without_caption(fields: dict[str, Any], keys: RowKeys, used: bool) -> dict[str, Any]:
    """Return the other data of a JSON. A key that only looks like the caption stays where it was not used."""
    own = {keys.wanted_caption}
    if used:
        with contextlib.suppress(Ambiguous):
            own.add(keys.caption(fields) or "")
    return {name: value for name, value in fields.items() if name not in own}


def captions(fields: dict[str, Any], keys: RowKeys, options: InputOptions) -> list[str | Fault]:
    """Return the captions in a mapping: one text or a list, and a fault for each that cannot be used."""
    try:
        key = keys.caption(fields)
    except Ambiguous as error:
        return [Fault("no text", str(error))]
    if key is None:
        return [Fault("no text", no_key(keys.wanted_caption))]
    given = fields[key]
    if not isinstance(given, list):
        return [_caption(given, repr(key), options)]
    texts = [
        _caption(each, f"{key!r}, text {number} of {len(given)},", options)
        for number, each in enumerate(given[:MOST_CAPTIONS], 1)
    ]
    texts += [Fault("oversized text", f"{key!r} has more than {MOST_CAPTIONS} texts")] * len(given[MOST_CAPTIONS:])
    return texts or [Fault("no text", f"{key!r} is {short(given)}")]


def no_key(key: str) -> str:
    """Return what a ledger says of a row without the key of the captions."""
    return f"no key {key!r}"


def _caption(given: Any, where: str, options: InputOptions) -> str | Fault:
    # Half of a surrogate pair, as cut-off emoji leave it in JSON, is no text: tokenizers fail on it.
    text = given.encode("utf-8", "replace").decode().strip() if isinstance(given, str) else ""
    if len(text.encode()) > options.max_text_bytes:
        return too_large(len(text.encode()), options)
    return text or Fault("no text", f"{where} is {short(given)}")


def parsed(data: bytes) -> Any:
    """Parse a JSON text; return the :class:`Fault` in it, if any."""
    try:
        return parse_json(data, "")
    except TextError as error:
        return Fault("unreadable text", error.reason)


def too_large(size: int, options: InputOptions) -> Fault:
    """Return the fault of a text of ``size`` bytes."""
    return Fault("oversized text", f"{size} bytes, {options.max_text_bytes} allowed")


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
        text = decode(file.read(), "").strip()
    except TextError as error:
        return Fault("unreadable text", error.reason)
    return text or Fault("no text", "the text is empty")


_ENCODED = Column("image", IMAGES)
"""img2dataset names the column of the encoded images after their format."""


class Ambiguous(DataError):
    """Several keys match."""


class RowKeys:
    """Find the keys of image and captions: those of the options, else common names.

    Args:
        options: of the input.
    """

    def __init__(self, options: InputOptions):
        image, caption = {"image": options.image_key}, {"caption": options.caption_key}
        self._image = [_columns(_ENCODED, image), _columns(IMAGE, image)]
        self._caption = [_columns(CAPTION, caption)]
        self.wanted_image, self.wanted_caption = options.image_key or "image", options.caption_key or "caption"

    def image(self, row: Mapping[str, Any]) -> str | None:
        """Return the key of the image; None: the row has none.

        Raises:
            Ambiguous: several could be meant.
        """
        return _found(self._image, "image", row)

    def caption(self, row: Mapping[str, Any]) -> str | None:
        """Return the key of the captions; None: the row has none.

        Raises:
            Ambiguous: several could be meant.
        """
        return _found(self._caption, "caption", row)


def _columns(column: Column, keys: Mapping[str, str | None]) -> TableColumns:
    return ColumnKeys([column], [], keys).of("")


def _found(columns: list[TableColumns], name: str, row: Mapping[str, Any]) -> str | None:
    for each in columns:
        try:
            key = each.resolve(tuple(row)).get(name)
        except DataError as error:
            raise Ambiguous(str(error).lstrip(": ")) from error
        if key is not None:
            return str(key)
    return None
