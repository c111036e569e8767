"""Opens text files as people have them: gzip, UTF-16, byte order marks, line ends of any system."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TextIO

from vlkit.io.text_encoding import TextError, encoding_of, kind_of, not_utf8

_START = 4096
_PAGE = re.compile(r"\s*<(!doctype|html|head|body|\?xml|svg)\b", re.IGNORECASE)
_LARGE, _RATIO = 1 << 30, 200  # unpacked bytes that are always read; times the packed ones
_ESCAPED = re.compile("[\udc80-\udcff]")


def plain_suffix(file: Path) -> str:
    """The suffix that tells the format, in lower case: ``.json`` of ``a.JSON`` and of ``a.json.gz``."""
    return Path(file.stem if file.suffix.lower() == ".gz" else file.name).suffix.lower()


@contextlib.contextmanager
def open_bytes(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file; those inside where it is gzip data, whatever it is called.

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
    """All bytes of a text file, unpacked where it is gzip data.

    Raises:
        TextError: it cannot be read, or is known not to be text.
    """
    with open_bytes(file) as stream:
        data = stream.read()
    check_kind(file, data[:_START])
    return data


def start_of(file: Path) -> str:
    """The first characters of a text file, without white space in front.

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
    """The characters of a text file: UTF-8, or what its byte order mark says.

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
    """Why a text that :func:`open_text` gave holds bytes that are no UTF-8, a sentence; or ""."""
    found = None if text.isascii() else _ESCAPED.search(text)
    if not found:
        return ""
    data, before = (each.encode("utf-8", "surrogateescape") for each in (text, text[: found.start()]))
    return f"{not_utf8(data, len(before))} Save the file with the encoding UTF-8."
