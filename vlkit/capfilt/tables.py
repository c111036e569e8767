"""The table of a shard, in parquet: one row for each text, with its scores and the fields of its image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

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
    """A score as it is written and compared; None: there is none, or it is not a finite number."""
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
    """The columns of a table, scores as they were compared with thresholds when it was written."""
    from pyarrow import parquet

    columns = parquet.read_table(file, columns=list(COLUMNS)).to_pydict()
    return columns | {name: [rounded(score) for score in columns[name]] for name in SCORES}
