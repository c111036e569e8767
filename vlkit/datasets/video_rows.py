"""Rows of annotation files with captions of videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlkit.datasets.annotation_formats import Faults, entries, lacks, short
from vlkit.datasets.annotations import Row

_NEED = "A row needs 'video' or 'clip_name' (a file name) and 'caption' (a text or a list of texts)."


def caption_rows(file: Path, need_captions: bool = False) -> Iterator[Row]:
    """Videos and captions, ``{"video", "caption"}`` or ``{"clip_name", "caption"}``, in the order of the file.

    Args:
        need_captions: a row without the key ``caption`` is a fault.

    Raises:
        DataError: the file cannot be read, or has no rows. Faults of single rows are reported together, after the last
            row.
    """
    faults = Faults(file, need=_NEED)
    empty = True
    for number, fields in entries(file, "auto", faults, column="video"):
        empty = False
        row = _row(number, fields, need_captions)
        if isinstance(row, str):
            faults.add(number, row)
        else:
            if need_captions and not row.captions:
                faults.unused(number, "it has no caption to train on.")
            yield row
    faults.raise_where_empty(empty)


def _row(number: int, fields: Any, need_captions: bool) -> Row | str:
    """A row, or a sentence that says why there is none."""
    if not isinstance(fields, Mapping):
        return f"{short(fields)} is not a mapping."
    key = "video" if "video" in fields or "clip_name" not in fields else "clip_name"
    for needed in (key, *(["caption"] if need_captions else [])):
        if needed not in fields:
            return lacks(needed, fields)
    name, caption = fields[key], fields.get("caption")
    if not isinstance(name, str) or not name.strip():
        return f"{key!r} is {short(name)}, not a file name."
    texts = caption if isinstance(caption, list) else [] if caption is None else [caption]
    if not all(isinstance(text, str) for text in texts):
        return f"'caption' is {short(caption)}, neither a text nor a list of texts."
    # Half of a surrogate pair is no text: tokenizers fail on it.
    return Row(number, name, [text.encode("utf-8", "replace").decode() for text in texts], None)
