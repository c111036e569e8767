"""Name the kind of a file in messages: regular or special, and its format by its first bytes."""

from __future__ import annotations

import os
import stat

from PIL import Image

from vlkit.errors import BadSample

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"]
"""Pillow's names of the formats that are read. Others are refused, whatever Pillow has a plugin for: some start other
programs, others are read by slow or untested code. Append the format of a plugin that you register and trust."""

_BRANDS = {
    b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"heim": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF",
    b"avif": "AVIF", b"avis": "AVIF", b"crx ": "CR3",
}  # fmt: skip
_STARTS: list[tuple[bytes, str]] = [
    (b"\xff\x0a", "JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "JPEG XL image"),
    (b"%PDF", "PDF document"),
    (b"%!PS", "EPS image"),
    (b"\xc5\xd0\xd3\xc6", "EPS image"),
    (b"<svg", "SVG drawing"),
    (b"<!doctype html", "HTML page"),
    (b"<html", "HTML page"),
    (b"<?xml", "XML document (an SVG drawing?)"),
    (b"version https://git-lfs", "Git LFS pointer: fetch the file itself (git lfs pull)"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip file"),
    (b"\x28\xb5\x2f\xfd", "Zstandard file"),
    (b"BZh", "bzip2 file"),
    (b"\xfd7zXZ", "xz file"),
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (b"\x93NUMPY", "NumPy array"),
    (b"PAR1", "Parquet file"),
    (b"\x89HDF", "HDF5 file"),
    (b"\x7fELF", "program"),
    (b"{", "JSON text"),
]


_SPECIAL = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def file_size(path: str, wanted: str) -> int:
    """Return the size of a regular file in bytes. Special files are not opened, since reading them may never end.

    Args:
        path: of the file.
        wanted: what it should be, with an article.

    Raises:
        BadSample: there is none, or it is no regular file.
        OSError, ValueError: it cannot be looked up.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        missing = f"a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else "no such file"
        raise BadSample(path, missing) from error
    for is_kind, kind in _SPECIAL.items():
        if is_kind(status.st_mode):
            raise BadSample(path, f"{kind}, not {wanted}")
    return status.st_size


def kind_of(start: bytes, name: str = "") -> str:
    """Return the kind of a file with an article ("an EPS image"), or "" if it is unknown.

    Args:
        start: its first 4 kB.
        name: of the file; its extension counts where the content does not tell.
    """
    known = _by_content(start)
    if not known and start and not start.strip(b"\0"):
        return "a file of zeros"
    if not known and (extension := _by_extension(name)):
        known = f"{extension} image"
    return f"{'an' if known[0] in 'AEHFILMNORSX' and not _spoken_as_word(known) else 'a'} {known}" if known else ""


def _spoken_as_word(known: str) -> bool:
    return known.startswith(("HEI", "JSON", "Mat", "Num", "Git", "SPIDER", "HDF5", "SUN", "FITS", "MCIDAS"))


def _by_content(start: bytes) -> str:
    if start[4:8] == b"ftyp":
        return f"{_BRANDS[start[8:12]]} image" if start[8:12] in _BRANDS else "MP4 or QuickTime video"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for prefix, kind in _STARTS:
        if start.startswith(prefix) or text.startswith(prefix.lower()):
            return kind
    if start[257:262] == b"ustar":
        return "tar archive"
    Image.init()
    for format, (_, accept) in Image.OPEN.items():
        if format not in FORMATS and format not in _VAGUE and accept is not None and accept(start[:16]):
            return f"{format} image"
    return ""


_VAGUE = ("CUR", "DIB", "MPEG", "PCD", "SPIDER", "TGA")  # formats whose first bytes many files share


def _by_extension(name: str) -> str:
    dot = name.rfind(".")
    format = Image.registered_extensions().get(name[dot:].lower(), "") if dot >= 0 else ""
    return "" if format in FORMATS else format
