"""The orientation of a picture in its metadata, read without following anything else in them.

Pillow reads all tags of an EXIF block at once; tags that overlap make a block of 64 kB fill hundreds of megabytes.
"""

from __future__ import annotations

import re

_ORIENTATION = 0x0112
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # of a value
_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")


def exif_orientation(block: bytes) -> int | None:
    """1 (upright) to 8, from an EXIF block (with or without ``Exif\\0\\0`` in front); None: it does not say."""
    if block.startswith(b"Exif\0"):
        block = block[6:]
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return None
    order = "little" if block[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[at : at + size], order)  # type: ignore[arg-type]

    first = number(4, 4)
    for entry in range(number(first, 2)):
        at = first + 2 + 12 * entry
        if at + 12 > len(block):
            return None
        if number(at, 2) == _ORIENTATION:
            kind, count = number(at + 2, 2), number(at + 4, 4)
            value = number(at + 8, 2 if kind == 3 else 4)
            return value if kind in (3, 4) and count == 1 and 1 <= value <= 8 else None
    return None


def xmp_orientation(packet: bytes) -> int | None:
    """The same from an XMP packet."""
    found = _XMP.search(packet)
    return int(found[1]) if found else None


def claimed_bytes(block: bytes) -> int:
    """What the tags of an EXIF block (or of a TIFF file) say they hold, overlaps counted each time."""
    order = "little" if block[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[at : at + size], order)  # type: ignore[arg-type]

    first, claimed = number(4, 4), 0
    for entry in range(number(first, 2)):
        at = first + 2 + 12 * entry
        if at + 12 > len(block):
            break
        size = _SIZES.get(number(at + 2, 2), 0) * number(at + 4, 4)
        if size <= len(block):  # others are cut off, and skipped
            claimed += size
    return claimed
