"""The captions of a sample of a webdataset shard, from its text file and its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlkit.datasets.annotations import listed_captions, plain_captions
from vlkit.datasets.column_names import CAPTION, Fields
from vlkit.datasets.columns import ColumnKeys
from vlkit.errors import BadSample
from vlkit.json_reader import JsonError, parse_json


class ShardTexts:
    """Reads captions.

    Args:
        keys: of the column ``caption``.
        shard: named in errors about all samples.
    """

    def __init__(self, keys: ColumnKeys, shard: Path):
        self.caption_key, self._columns = keys.keys["caption"], keys.of(shard)

    @staticmethod
    def keys(caption_key: str | None) -> ColumnKeys:
        """The columns of the JSON."""
        return ColumnKeys([CAPTION], ["caption"], {"caption": caption_key})

    def captions(self, text: bytes, data: bytes, name: str, need: bool) -> list[str]:
        """The captions of a sample that are not blank, each once.

        Args:
            text: of its text file; empty if it has none.
            data: of its JSON; empty if it has none.
            name: of the sample.
            need: without a key for captions the JSON is of no use.

        Raises:
            BadSample: its text or its JSON cannot be read, or has no key for captions, and needs one.
            DataError: two keys of the JSON could be the caption.
        """
        own = [] if self.caption_key is not None else list(filter(None, [_decoded(text, name)]))
        if not data:
            return own
        try:
            given = self._given(data, name, need)
        except BadSample:
            if own:
                return own
            raise
        if own and not isinstance(given, list):
            return own
        plain = plain_captions(each for each in listed_captions(given) if isinstance(each, str))
        return list(dict.fromkeys(filter(None, [*own, *(each.strip() for each in plain)])))

    def finish(self) -> None:
        """Call when some samples have been read.

        Raises:
            DataError: no JSON had the key that was set.
        """
        self._columns.finish()

    def _given(self, data: bytes, name: str, need: bool) -> Any:
        try:
            fields = parse_json(data, name)
        except JsonError as error:
            raise BadSample(name, f"its JSON cannot be read ({error.reason.rstrip('.')})") from error
        found = self._columns.fields(fields) if isinstance(fields, dict) else f"it is a {type(fields).__name__}"
        if isinstance(found, Fields):
            return found["caption"]
        if need:
            raise BadSample(name, f"its JSON has no caption: {found}")
        return None


def _decoded(text: bytes, name: str) -> str:
    try:
        return text.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{text[error.start]:02x} at {error.start}"
        raise BadSample(name, f"its text is not UTF-8 ({byte}): save it with this encoding") from error
