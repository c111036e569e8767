"""Small webdataset tars, good and bad."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

Member = tuple[str, bytes]


def picture(shade: int = 0, format: str = "PNG", size: tuple[int, int] = (4, 3)) -> bytes:
    """An encoded picture of one color."""
    file = io.BytesIO()
    Image.new("RGB", size, (shade % 256, 90, 200)).save(file, format)
    return file.getvalue()


def write_tar(path: Path, members: Sequence[Member], format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of ``members`` in this order, whatever their names are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def header(name: str, size: int, type: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None) -> bytes:
    """The header of a member that claims to have ``size`` bytes, after a PAX header with other claims."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type
    before = b""
    if pax:
        records = b"".join(_record(key, value) for key, value in pax.items())
        before = header("pax", len(records), tarfile.XHDTYPE) + block(records)
    return before + info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode()
    length = next(n for n in range(len(text), len(text) + 9) if n == len(str(n)) + len(text))
    return str(length).encode() + text


def block(data: bytes) -> bytes:
    """``data`` as a tar holds it."""
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)
