"""The Parquet table of a shard: one row for each text, with its scores and the fields of its image."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from vlkit.io.json import json_text

COLUMNS = {
    "key": "string",
    "index": "int64",
    "source": "string",
    "number": "int32",
    "text": "string",
    "itm": "float32",
    "itc": "float32",
    "log_prob": "float32",
    "kept": "bool",
    "image": "string",
}
"""``index`` is the place of the image in its shard (of those that were annotated), ``source`` is "web" or "synthetic",
``number`` counts the texts of one source of an image, ``image`` is the start of the SHA-256 of the encoded image."""
SCORES = ("itm", "itc", "log_prob")
DIGITS = 6
"""Decimal places of scores, wherever they are written and before they are compared with a threshold."""


def rounded(score: float | None) -> float | None:
    """Round a score as it is written and compared; None: there is none, or it is not a finite number."""
    return None if score is None or not math.isfinite(score) else round(float(score), DIGITS)


def write_table(
    file: str | Path | IO[bytes],
    columns: Mapping[str, Sequence[Any]],
    fields: Mapping[str, tuple[str, Sequence[Any]]] = MappingProxyType({}),
) -> None:
    """Write a table; equal columns give equal bytes.

    Args:
        file: where to.
        columns: of equal length, those of :data:`COLUMNS`.
        fields: further columns: name to type (of pyarrow) and values.
    """
    import pyarrow
    from pyarrow import parquet

    own = [pyarrow.field(name, getattr(pyarrow, kind + "_" * (kind == "bool"))()) for name, kind in COLUMNS.items()]
    arrays = [pyarrow.array(columns[field.name], field.type) for field in own]
    for name, (kind, values) in fields.items():
        own.append(pyarrow.field(name, getattr(pyarrow, kind)()))
        arrays.append(pyarrow.array(values, own[-1].type))
    table = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(own))
    parquet.write_table(table, file, compression="zstd", use_dictionary=["source"], row_group_size=1 << 16)


def read_table(file: str | Path | IO[bytes]) -> dict[str, list[Any]]:
    """Read the columns of a table, with scores as they were compared with thresholds."""
    from pyarrow import parquet

    columns = parquet.read_table(file, columns=list(COLUMNS)).to_pydict()
    return columns | {name: [rounded(score) for score in columns[name]] for name in SCORES}


PREFIX = "input_"
"""Prefix of a field whose name is that of an own column or key."""
MORE = "more_fields"
"""Column of the fields for which there is no column of their own, as a JSON mapping."""
MOST_FIELDS = 256
"""Fields of a shard that get a column each."""
_LARGEST_INTEGER = 2**63
_EXACT = 2**53  # integers up to here are exact in a float


def free_name(name: str, taken: Collection[str]) -> str:
    """``name``, with :data:`PREFIX` in front if it is one of ``taken``.

    Names that only look like it get the prefix too, so that different names stay different: where ``key`` is taken,
    ``key`` becomes ``input_key`` and ``input_key`` becomes ``input_input_key``.
    """
    bare = name
    while bare.startswith(PREFIX):
        bare = bare.removeprefix(PREFIX)
    return PREFIX + name if bare in taken else name


class FieldColumns:
    """Collect the fields of a shard's images and make columns of them. Equal calls give equal columns.

    Args:
        taken: names of our own columns.
    """

    def __init__(self, taken: Collection[str]):
        self._taken = {*taken, MORE, ""}
        self._names: dict[str, str] = {}  # field -> column
        self._images: list[Mapping[str, Any]] = []
        self._rows: list[int] = []  # image of each row

    def add(self, fields: Mapping[str, Any], rows: int) -> None:
        """Add the fields of an image that has ``rows`` rows in the table."""
        found: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for name, value in fields.items():
            if column := self._column(name):
                found[column] = value
            else:
                rest[name] = value
        self.add_columns(found | ({MORE: rest} if rest else {}), rows)

    def add_columns(self, columns: Mapping[str, Any], rows: int) -> None:
        """Add the columns of an earlier table for an image."""
        if rows:
            self._rows += [len(self._images)] * rows
            self._images.append(columns)

    def columns(self) -> dict[str, tuple[str, list[Any]]]:
        """Return type (of pyarrow) and values of each column, in the order of their first appearance."""
        names = dict.fromkeys(name for image in self._images for name in image)
        return {name: self._typed([image.get(name) for image in self._images]) for name in names}

    def _column(self, name: str) -> str:
        """Return the column of a field; "": there are too many."""
        if name not in self._names:
            if len(self._names) == MOST_FIELDS:
                return ""
            column = _text(name)
            # Readers select "text.a" together with "text".
            first, dot, rest = column.partition(".")
            column = free_name(first, self._taken) + dot + rest
            while column in self._names.values():
                column += "_"
            self._names[name] = column
        return self._names[name]

    def _typed(self, values: Sequence[Any]) -> tuple[str, list[Any]]:
        """Choose one type for the values of all images: their own if they share one, else JSON."""
        kinds = {type(value) for value in values if value is not None}
        whole = [value for value in values if type(value) is int]
        if kinds <= {str}:
            kind = "string"
            found: list[Any] = [value if value is None else _text(value) for value in values]
        elif kinds == {bool}:
            kind, found = "bool_", list(values)
        elif kinds == {int} and all(-_LARGEST_INTEGER <= value < _LARGEST_INTEGER for value in whole):
            kind, found = "int64", list(values)
        elif kinds <= {int, float} and float in kinds and all(abs(value) <= _EXACT for value in whole):
            kind, found = "float64", [value if value is None else float(value) for value in values]
        else:
            kind, found = "string", [value if value is None else json_text(value) for value in values]
        return kind, [found[image] for image in self._rows]


def _text(value: str) -> str:
    """Replace halves of surrogate pairs, which UTF-8 cannot hold."""
    return value.encode("utf-8", "replace").decode()
