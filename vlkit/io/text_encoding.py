"""Bytes to text: encodings that a byte order mark names, and what bytes that are no text are."""

from __future__ import annotations

import codecs

from vlkit.errors import DataError

# The longer marks first: that of UTF-16 begins that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SIGNATURES = (
    (b"\x1f\x8b", "gzip data"),
    (b"PK\x03\x04", "a zip archive (an Excel file .xlsx is one, too)"),
    (b"\xd0\xcf\x11\xe0", "an old Office file, such as Excel's .xls"),
    (b"\x28\xb5\x2f\xfd", "zstandard data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF file"),
    (b"\x80\x02", "a pickle file"),
    (b"\x80\x03", "a pickle file"),
    (b"\x80\x04", "a pickle file"),
    (b"\x80\x05", "a pickle file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
)


class TextError(DataError):
    """Something that cannot be read as text, or as the format that the text should have.

    Args:
        source: a path, or another name that a person can look up.
        reason: a sentence or more, with the line where it is known.
    """

    def __init__(self, source: str, reason: str):
        self.source, self.reason = source, reason
        super().__init__(f"{source}: {reason}")

    def __reduce__(self):  # crosses process borders
        return (type(self), (self.source, self.reason))


def encoding_of(start: bytes) -> tuple[str, int]:
    """The encoding that the byte order mark at the start of a file names, and the length of the mark in bytes.

    Without a mark it is UTF-8.
    """
    return next(((name, len(mark)) for mark, name in _MARKS if start.startswith(mark)), ("utf-8", 0))


def kind_of(start: bytes) -> str:
    """What a file that starts with these bytes is, if it is known and is no text: "a PNG image"; or ""."""
    found = next((name for signature, name in _SIGNATURES if start.startswith(signature)), "")
    if not found and start[257:262] == b"ustar":
        return "a tar archive"
    return found


def decode(data: bytes, source: str, line: int = 1) -> str:
    """Decode a text: UTF-8 with or without byte order mark, UTF-16 and UTF-32 with one.

    Args:
        data: the bytes.
        source: named in errors.
        line: number of the first line of ``data``. A byte order mark counts in line 1 only.

    Raises:
        TextError: the bytes are in another encoding, or no text.
    """
    name, length = encoding_of(data) if line == 1 else ("utf-8", 0)
    try:
        return str(memoryview(data)[length:], name) if length else data.decode(name)
    except UnicodeDecodeError as error:
        kind = kind_of(data) if line == 1 else ""
        if kind:
            raise TextError(source, f"it is {kind}, not text.") from error
        if name == "utf-8":
            at = error.start + length
            line += data.count(b"\n", 0, at) or data.count(b"\r", 0, at)
            reason = f"line {line} is {not_utf8(data, at)}"
        else:
            reason = f"its byte order mark says {name.upper()}, and byte {error.start + length} does not fit that."
        raise TextError(source, f"{reason} Save the file with the encoding UTF-8.") from error


def not_utf8(data: bytes, at: int) -> str:
    """``not UTF-8 (byte 0xe9).`` for the byte at ``at``, with what the encoding may be."""
    said = f"not UTF-8 (byte 0x{data[at]:02x})."
    if data[:4096].count(0) * 4 > len(data[:4096]):
        return f"{said} It looks like UTF-16 without a byte order mark."
    near = data[max(0, at - 20) : at + 20].decode("latin-1")
    if all(character.isprintable() or character in "\r\n\t" for character in near):
        return f"{said} It may be Latin-1, in which it reads {near.strip()!r}."
    return said
