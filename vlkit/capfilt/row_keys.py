"""Which keys of a row, or of the JSON of a sample, hold the image and the captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlkit.capfilt.inputs import InputOptions
from vlkit.datasets.columns import CAPTION, IMAGE, Column, ColumnKeys, TableColumns
from vlkit.datasets.shard_files import IMAGES
from vlkit.errors import DataError

_ENCODED = Column("image", IMAGES)
"""img2dataset names the column of the encoded images after their format."""


class Ambiguous(DataError):
    """Several keys could be meant."""


class RowKeys:
    """The keys that the options set, else the common names.

    Args:
        options: of the input.
    """

    def __init__(self, options: InputOptions):
        image, caption = {"image": options.image_key}, {"caption": options.caption_key}
        self._image = [_columns(_ENCODED, image), _columns(IMAGE, image)]
        self._caption = [_columns(CAPTION, caption)]
        self.wanted_image, self.wanted_caption = options.image_key or "image", options.caption_key or "caption"

    def image(self, row: Mapping[str, Any]) -> str | None:
        """The key of the image; None: the row has none.

        Raises:
            Ambiguous: several could be meant.
        """
        return _found(self._image, "image", row)

    def caption(self, row: Mapping[str, Any]) -> str | None:
        """The key of the captions; None: the row has none.

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
