"""Rows of annotation files with captions of videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vlkit.datasets.annotation_formats import Faults, table_rows
from vlkit.datasets.annotations import Row, listed_captions, plain_captions
from vlkit.datasets.column_names import CAPTION, VIDEO, Fields, Key
from vlkit.datasets.columns import ColumnKeys
from vlkit.datasets.faults import short

_NEED = (
    "A row needs 'video' or 'clip_name' (a file name) and 'caption' (a text or a list of texts); video_key and "
    "caption_key say what else they are called."
)


def video_columns(needed: bool, keys: Mapping[str, Key | None] | None = None, pattern: str | None = None) -> ColumnKeys:
    """The columns of a table of videos with captions.

    Args:
        needed: whether each row needs a caption.
        keys: "video" and "caption" to what the user set.
        pattern: makes file names of the values of the column of the video.
    """
    names = ["video", "caption"] if needed else ["video"]
    return ColumnKeys([VIDEO, CAPTION], names, keys or {}, pattern, ("video",), "video_pattern")


def caption_rows(file: Path, need_captions: bool = False, columns: ColumnKeys | None = None) -> Iterator[Row]:
    """Videos and captions, ``{"video", "caption"}`` or ``{"clip_name", "caption"}``, in the order of the file.

    Args:
        file: annotation file.
        need_captions: a row without a caption is a fault.
        columns: which columns to read; None: those of :func:`video_columns`.

    Raises:
        DataError: the file cannot be read, or has no rows. Faults of single rows are reported together, after the last
            row.
    """
    faults = Faults(file, need=_NEED)
    empty = True
    for number, fields in table_rows(file, "auto", faults, (columns or video_columns(need_captions)).of(file)):
        empty = False
        row = _row(number, fields)
        if isinstance(row, str):
            faults.add(number, row)
        else:
            if need_captions and not row.captions:
                faults.unused(number, "it has no caption to train on.")
            yield row
    faults.raise_where_empty(empty)


def _row(number: int, fields: Fields) -> Row | str:
    """A row, or a sentence that says why there is none."""
    name, caption = fields["video"], fields.get("caption")
    if not isinstance(name, str) or not name.strip():
        advice = " video_pattern makes names of numbers: video{}.mp4." if type(name) is int else ""
        return f"{fields.shown('video')} is {short(name)}, not a file name.{advice}"
    texts = listed_captions(caption)
    if not all(isinstance(text, str) for text in texts):
        return f"{fields.shown('caption')} is {short(caption)}, neither a text nor a list of texts."
    return Row(number, name, plain_captions(texts), None)
