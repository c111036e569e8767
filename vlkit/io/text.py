"""Text files as people have them: encodings, byte order marks, gzip, line ends of any system."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TextIO

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
    """Return the encoding that the byte order mark at the start of a file names, and the length of the mark in bytes.

    Without a mark it is UTF-8.
    """
    return next(((name, len(mark)) for mark, name in _MARKS if start.startswith(mark)), ("utf-8", 0))


def kind_of(start: bytes) -> str:
    """Return what a file that starts with these bytes is, if it is known and is no text: "a PNG image"; or ""."""
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
    """Return ``not UTF-8 (byte 0xe9).`` for the byte at ``at``, with what the encoding may be."""
    said = f"not UTF-8 (byte 0x{data[at]:02x})."
    if data[:4096].count(0) * 4 > len(data[:4096]):
        return f"{said} It looks like UTF-16 without a byte order mark."
    near = data[max(0, at - 20) : at + 20].decode("latin-1")
    if all(character.isprintable() or character in "\r\n\t" for character in near):
        return f"{said} It may be Latin-1, in which it reads {near.strip()!r}."
    return said


_START = 4096
_PAGE = re.compile(r"\s*<(!doctype|html|head|body|\?xml|svg)\b", re.IGNORECASE)
_LARGE, _RATIO = 1 << 30, 200  # unpacked bytes that are always read; times the packed ones
_ESCAPED = re.compile("[\udc80-\udcff]")


def plain_suffix(file: Path) -> str:
    """Return the suffix that tells the format, in lower case: ``.json`` of ``a.JSON`` and of ``a.json.gz``."""
    return Path(file.stem if file.suffix.lower() == ".gz" else file.name).suffix.lower()


@contextlib.contextmanager
def open_bytes(file: Path) -> Iterator[IO[bytes]]:
    """Open the bytes of a file; those inside where it is gzip data, whatever its name is.

    Raises:
        TextError: it cannot be read, or the gzip data are cut off, damaged or a bomb, also while the block reads on.
    """
    try:
        with open(file, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                yield raw
                return
            with io.BufferedReader(_Unpacked(file, raw), 1 << 20) as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TextError(
            str(file), f"its gzip data are cut off or damaged ({error}). Download or copy it again."
        ) from error
    except OSError as error:
        raise TextError(str(file), f"cannot be read ({error.strerror or error}).") from error


class _Unpacked(io.RawIOBase):
    """What is in gzip data, unless that is far more than annotations pack into so few bytes."""

    def __init__(self, file: Path, raw: IO[bytes]):
        self._file, self._stream = file, gzip.GzipFile(fileobj=raw)
        self._most = max(_LARGE, _RATIO * os.fstat(raw.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        if self._stream.tell() > self._most:
            reason = f"its gzip data hold more than {_RATIO} times their size: it is damaged, or was made to do harm."
            raise TextError(str(self._file), reason)
        buffer[: len(data)] = data
        return len(data)


def read_bytes(file: Path) -> bytes:
    """Read all bytes of a text file, unpacked where it is gzip data.

    Raises:
        TextError: it cannot be read, or is known not to be text.
    """
    with open_bytes(file) as stream:
        data = stream.read()
    check_kind(file, data[:_START])
    return data


def start_of(file: Path) -> str:
    """Read the first characters of a text file, without white space in front.

    Raises:
        TextError: it cannot be read, or is known not to be text.
    """
    with open_bytes(file) as stream:
        start = stream.read(_START)
        whole = not stream.read(1)
    check_kind(file, start)
    name, length = encoding_of(start)
    text = start[length:].decode(name, "replace").lstrip()
    if not text and whole:
        raise TextError(str(file), "the file is empty.")
    return text


def check_kind(file: Path, start: bytes) -> None:
    """Refuse what is no text, or a web page.

    Args:
        file: named in the error.
        start: its first bytes, unpacked.

    Raises:
        TextError: it is known as something else.
    """
    kind = kind_of(start)
    if kind:
        raise TextError(str(file), f"it is {kind}, not text. Unpack it, or save it as text (JSON or CSV, in UTF-8).")
    name, length = encoding_of(start)
    if not length and start.count(0) * 4 > len(start):
        reason = "it holds NUL bytes: it is UTF-16 without a byte order mark, or no text. Save it as UTF-8."
        raise TextError(str(file), reason)
    if _PAGE.match(start[length:].decode(name, "replace")):
        raise TextError(str(file), "it is a web page or XML. Was an error page saved in place of the file?")


@contextlib.contextmanager
def open_text(file: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open the characters of a text file: UTF-8, or what its byte order mark says.

    Bytes that are no UTF-8 become half surrogates, which :func:`encoding_fault` explains: one bad line leaves the
    others. Line ends are those of Unix, Windows and old Macs; other characters that Unicode calls line ends are none.

    Args:
        newline: as for :func:`open`.

    Raises:
        TextError: as for :func:`read_bytes`; or UTF-16 or UTF-32 that is damaged.
    """
    with open_bytes(file) as stream:
        check_kind(file, stream.read(_START))
        stream.seek(0)
        name, length = encoding_of(stream.read(4))
        stream.seek(length)
        try:
            with io.TextIOWrapper(stream, encoding=name, errors="surrogateescape", newline=newline) as text:
                yield text
        except UnicodeError as error:
            raise TextError(
                str(file), f"its byte order mark says {name.upper()}, and its bytes do not fit that."
            ) from error


def encoding_fault(text: str) -> str:
    """Return why a text that :func:`open_text` gave holds bytes that are no UTF-8, a sentence; or ""."""
    found = None if text.isascii() else _ESCAPED.search(text)
    if not found:
        return ""
    data, before = (each.encode("utf-8", "surrogateescape") for each in (text, text[: found.start()]))
    return f"{not_utf8(data, len(before))} Save the file with the encoding UTF-8."
