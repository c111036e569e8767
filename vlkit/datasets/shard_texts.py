"""The captions of a sample of a webdataset shard, from its text file and its JSON."""

from __future__ import annotations

from pathlib import Path

from vlkit.datasets.annotations import listed_captions, plain_captions
from vlkit.datasets.column_names import CAPTION
from vlkit.datasets.columns import ColumnKeys
from vlkit.datasets.faults import short
from vlkit.errors import BadSample, DataError
from vlkit.io.json_reader import parse_json
from vlkit.io.text_encoding import TextError, decode


class ShardTexts:
    """Reads captions.

    Args:
        keys: of the column ``caption``.
        shard: named in errors about all samples.
    """

    def __init__(self, keys: ColumnKeys, shard: Path):
        self.caption_key, self._columns = keys.keys["caption"], keys.of(shard)
        self._finished = False

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
            DataError: two keys of the JSON could be the caption; a BadSample after :meth:`finish`.
        """
        own = [] if self.caption_key is not None else list(filter(None, [_decoded(text, name)]))
        if not data:
            return own
        try:
            given = self._given(data, name, need)
        except DataError:  # where there is a text file, a JSON may hold anything
            if own:
                return own
            raise
        if own and not isinstance(given, list):
            return own
        plain = plain_captions(given if isinstance(given, list) else [given])
        return list(dict.fromkeys(filter(None, [*own, *(each.strip() for each in plain)])))

    def finish(self) -> None:
        """Call when some samples have been read.

        Raises:
            DataError: no JSON had the key that was set.
        """
        self._finished = True
        self._columns.finish()

    def _given(self, data: bytes, name: str, need: bool) -> str | list[str]:
        """The caption of a JSON, or the list of them; "" where it has none, and needs none."""
        try:
            fields = parse_json(data, name)
        except TextError as error:
            raise BadSample(name, f"its JSON cannot be read ({error.reason.rstrip('.')})") from error
        try:
            found = self._columns.fields(fields) if isinstance(fields, dict) else f"it is a {type(fields).__name__}"
        except DataError as error:
            if not self._finished:
                raise
            raise BadSample(name, f"its JSON is ambiguous: {str(error).rstrip('.')}") from error
        if isinstance(found, str):
            if need:
                raise BadSample(name, f"its JSON has no caption: {found.rstrip('.')}")
            return ""
        texts = [each for each in listed_captions(found["caption"]) if each is not None]
        if not all(isinstance(each, str) for each in texts):
            what = f"{found.shown('caption')} is {short(found['caption'])}"
            raise BadSample(name, f"{what} in its JSON, neither a text nor a list of texts")
        return texts if isinstance(found["caption"], list) else "".join(texts)


def _decoded(text: bytes, name: str) -> str:
    try:
        return decode(text, name).strip()
    except TextError as error:
        raise BadSample(name, f"its text cannot be read: {error.reason.rstrip('.')}") from error
