"""Webdataset shards: resolve paths, patterns and folders to tar files, and group the names of members into samples.

``web_shards`` and CapFilt both group members by :func:`split_name` and :func:`is_further_image`, so that a shard has
the same samples for both.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlkit.errors import DataError, VlkitError
from vlkit.io.fetch import local_path

COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.lz4")
"""Suffixes of compressed tars, in lower case."""
_PROGRAMS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive: unpack it and pack the files with tar"),
    (b"Rar!", "a RAR archive: unpack it and pack the files with tar"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it and pack the files with tar"),
    (b"PAR1", "a Parquet file: read it with {name: hf_dataset, path: ...}"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run git lfs pull"),
    (b"<", "an HTML or XML page, as failed downloads leave it: download the file again"),
)


def stem_of(file: Path) -> str:
    """Return the name of a tar without ``.tar`` or the suffix of a compressed tar."""
    name = file.name
    suffix = next((end for end in (*COMPRESSED, ".tar") if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)]


def is_tar_name(name: str) -> bool:
    """Return whether a file has the suffix of a tar, compressed or not, in upper or lower case."""
    return name.lower().endswith((".tar", *COMPRESSED))


def why_not_tar(file: Path) -> str:
    """Return what a file that is not a tar is, and how to convert it; a clause, or "" if its format is unknown.

    Raises:
        OSError: it cannot be read.
    """
    with open(file, "rb") as stream:
        start = stream.read(64)
    if not start:
        return "the file is empty (0 bytes): write or download it again, or leave it out"
    for magic, program in _PROGRAMS:
        if start.startswith(magic):
            new = file.with_name(f"{stem_of(file)}{'-plain' * (file.suffix.lower() == '.tar')}.tar")
            return (
                f"it is compressed with {program}, so that no sample can be read at its place: decompress it "
                f"({program} -dc {file.name} > {new.name}) and set 'path' to that"
            )
    return next((f"it is {what}" for magic, what in _OTHERS if start.lstrip()[: len(magic)] == magic), "")


IMAGES = ("jpg", "jpeg", "png", "webp")
OTHER_IMAGES = ("gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "jp2", "jxl")
"""Suffixes of images that are not read from shards."""
TEXTS = ("txt", "json")


class MemberName(NamedTuple):
    """Parsed name of a member.

    Args:
        key: of its sample.
        suffix: the part after the last dot, in lower case; "" if there is none.
        kind: "image", "txt", "json", "other image", or "" for anything else.
    """

    key: str
    suffix: str
    kind: str


def escaped(name: str) -> str:
    """Escape every byte of ``name`` that is not UTF-8 as ``%FF``."""
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def split_name(name: str, image_key: str | None = None) -> MemberName | None:
    """Split the name of a member into key and suffix.

    The suffix starts at the last dot of the base name, everything before it is the key: ``a.b.jpg`` and ``a.c.jpg`` are
    two samples. (The package webdataset splits at the first dot and takes both for parts of the sample ``a``, where one
    hides the other. For keys without dots the rules are equal.) ``./000.jpg`` and ``000.jpg`` have the same key.

    Args:
        name: as in the tar.
        image_key: the suffix of the images ("png", "seg.png"); None: any of ``IMAGES``. Other images are then not part
            of a sample.

    Returns:
        None for folders and for files that macOS adds to archives (``._000.jpg``, ``__MACOSX/``). The key is empty, or
        ends with a slash, if the name is only a suffix.
    """
    parts = name.split("/")
    if not parts[-1] or parts[-1].startswith("._") or parts[0] == "__MACOSX":
        return None
    plain = [part for part in parts[:-1] if part not in ("", ".")]
    folder = "/" * name.startswith("/") + "".join(f"{part}/" for part in plain)
    if image_key is not None and parts[-1].lower().endswith(f".{image_key.lower()}"):
        suffix = image_key.rpartition(".")[2].lower()
        return MemberName(folder + parts[-1][: -len(image_key) - 1], suffix, suffix if suffix in TEXTS else "image")
    base, dot, suffix = parts[-1].rpartition(".")
    if not dot:
        return MemberName(folder + parts[-1], "", "")
    return MemberName(folder + base, suffix.lower(), _kind(suffix.lower(), image_key is None))


def _kind(suffix: str, images: bool) -> str:
    if suffix in TEXTS:
        return suffix
    kind = "image" if suffix in IMAGES else "other image" if suffix in OTHER_IMAGES else ""
    return kind if images else ""


def is_further_image(key: str, samples: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the image of ``key`` is a further image of another sample, such as ``a.seg.png`` of ``a``.

    This holds if it has no text, and a sample with a shorter key (``a`` for ``a.seg``) has an image and a text.

    Args:
        key: of a sample with an image.
        samples: key to the parts of a sample: "image", "txt", "json".
    """
    if any(kind in samples[key] for kind in TEXTS):
        return False
    folder, slash, base = key.rpartition("/")
    while "." in base:
        base = base.rpartition(".")[0]
        other = samples.get(f"{folder}{slash}{base}", {})
        if "image" in other and any(kind in other for kind in TEXTS):
            return True
    return False


WILD = "*?["
CAPFILT_RECORD = "capfilt.json"
MAX_SHARDS = 1_000_000
"""Largest number of names of a brace pattern."""


def expand(path: str) -> list[Path]:
    """Resolve a local path to files, in order; a folder to its ``*.tar``, in upper or lower case.

    Files of a brace pattern or a plain path need not exist. Compressed tars in a folder are included unless they are
    next to their uncompressed tar: :func:`check_found` reports them.

    Raises:
        DataError: a folder or a pattern matches nothing.
    """
    try:
        place = local_path(path)
    except VlkitError as error:
        raise DataError(str(error)) from error
    if place.is_dir():
        found = sorted(each for each in place.iterdir() if is_tar_name(each.name) and each.is_file())
        plain = {stem_of(each) for each in found if each.suffix.lower() == ".tar"}
        found = [each for each in found if each.suffix.lower() == ".tar" or stem_of(each) not in plain]
        if not found:
            raise DataError(f"{place}: the folder holds no *.tar file.{_advice(place)}")
        return found
    if place.is_file():  # a file may have braces in its name; a pattern names no file
        return [place]
    found = []
    for each in expand_braces(str(place)):
        matches = sorted(map(Path, glob.glob(each, recursive=True))) if set(WILD) & set(each) else [Path(each)]
        if not matches:
            raise DataError(f"{each}: no file is called like that. Correct 'path'.")
        found += matches
    return found


def expand_braces(pattern: str) -> list[str]:
    """Expand the braces of a path or address: ``{0000..0331}``, ``{a,b}``.

    Raises:
        DataError: a brace is not closed, or there are more than :data:`MAX_SHARDS` results.
    """
    from webdataset.shardlists import expand_urls

    if _count(pattern) > MAX_SHARDS:
        raise DataError(f"{pattern}: the braces stand for more than {MAX_SHARDS:,} names.")
    try:
        return expand_urls(pattern)
    except ValueError as error:
        raise DataError(f"{pattern}: {error}. Each '{{' needs its '}}'.") from error


def _count(pattern: str) -> int:
    """Return an upper bound of the number of names of a pattern, from the innermost braces outwards."""
    counts: list[int] = []

    def product(text: str) -> int:
        return math.prod(counts[int(number)] for number in re.findall("\0([0-9]+)\0", text))

    pattern = re.sub(r"\\.|\0", "", pattern, flags=re.DOTALL)
    while braces := re.search(r"\{([^{}]*)\}", pattern):
        span = re.fullmatch(r"(-?[0-9]{1,30})\.\.(-?[0-9]{1,30})(?:\.\.-?([0-9]{1,30}))?", braces[1])
        if span:
            counts.append(abs(int(span[2]) - int(span[1])) // (int(span[3] or 1) or 1) + 1)
        elif re.fullmatch(r"[A-Za-z]\.\.[A-Za-z](?:\.\..*)?", braces[1]):
            counts.append(52)
        else:
            counts.append(sum(map(product, braces[1].split(","))))
        pattern = f"{pattern[: braces.start()]}\0{len(counts) - 1}\0{pattern[braces.end() :]}"
    return product(pattern)


def check_found(path: object, shards: list[Path]) -> list[Path]:
    """Return ``shards`` if all exist and are different.

    Args:
        path: as configured.
        shards: its files.

    Raises:
        DataError: one is missing, compressed, or named twice, or there is none.
    """
    missing = [str(shard) for shard in shards if not os.path.isfile(shard)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"shards that do not exist: {', '.join(missing[:3])}{more}. Correct 'path', or download them.")
    named = [shard for shard in shards if shard.name.lower().endswith(COMPRESSED)]
    packed = [f"{shard}: {why}" for shard in named if (why := why_not_tar(shard))]
    if packed:
        more = f" And {len(packed) - 3} more." if len(packed) > 3 else ""
        raise DataError(f"{'. '.join(packed[:3])}.{more}")
    if not shards or len(set(shards)) < len(shards):
        raise DataError(f"path: {path} names {'a shard twice' if shards else 'no shard'}.")
    return shards


def _advice(folder: Path) -> str:
    if (folder / CAPFILT_RECORD).exists():
        if not (folder / "kept").is_dir() and (folder / "tables").is_dir():
            return " It is an output of vlkit capfilt without images: they were not stored (run.output: scores)."
        return f" It is an output of vlkit capfilt: what that kept is in {folder / 'kept'}."
    below = sorted({file.parent for file in folder.glob("*/*.tar")})
    if below:
        return f" Folders in it hold some: set 'path' to {below[0]}, or to the pattern {folder / '*/*.tar'}."
    return " Set 'path' to webdataset shards."
