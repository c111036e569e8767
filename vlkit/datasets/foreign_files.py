"""Says what a file is that was taken for a tar."""

from __future__ import annotations

from pathlib import Path

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
    """The name of a tar without ``.tar``, or without the suffix of a compressed tar."""
    name = file.name
    suffix = next((end for end in (*COMPRESSED, ".tar") if name.lower().endswith(end)), "")
    return name[: len(name) - len(suffix)]


def is_tar_name(name: str) -> bool:
    """Whether a file is called like a tar, compressed or not, in upper or lower case."""
    return name.lower().endswith((".tar", *COMPRESSED))


def why_not_tar(file: Path) -> str:
    """What ``file`` is, if that is known and it is no tar, and how to make one of it; a clause, or "".

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
