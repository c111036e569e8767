"""Headers of image files, read before anything is decoded: JPEG markers, EXIF and XMP orientation, WebP size.

A progressive JPEG may repeat scans: each costs a pass over the picture and a few bytes. The markers also carry
metadata (EXIF, thumbnails, color profiles) that no pixel depends on; decoders get the file without them. Pillow reads
all tags of an EXIF block at once; tags that overlap make a block of 64 kB fill hundreds of megabytes, so only the
orientation is read here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_SCANS = 100
MAX_SEGMENTS = 10_000

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_AFTER_SCAN = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # restart markers belong to the scan
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_EOI, _SOS, _APP1, _COMMENT = 0xD9, 0xDA, 0xE1, 0xFE
_METADATA = {*range(0xE1, 0xF0), _COMMENT} - {0xEE}  # 0xEE is Adobe's, which says what the channels are
_ORIENTATION = 0x0112
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # of a value
_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")


@dataclass(frozen=True)
class JpegHeader:
    """The first frame of a JPEG file.

    Args:
        width, height: in pixels.
        channels: 1 (gray), 3 or 4.
        bits: of a sample.
        arithmetic: whether the slow arithmetic coding is used.
        scans: passes over the picture; counted up to one above ``MAX_SCANS``.
        segments: markers with data; counted up to one above ``MAX_SEGMENTS``.
        orientation: of EXIF, 1 to 8.
        data: the file without metadata.
    """

    width: int
    height: int
    channels: int
    bits: int
    arithmetic: bool
    scans: int
    segments: int
    orientation: int
    data: bytes


def read_jpeg(data: bytes) -> JpegHeader | None:
    """Read the header of a JPEG file; None if it is too damaged. Takes time in proportion to the file.

    Args:
        data: the file.
    """
    kept, at, frame, metadata = [b"\xff\xd8"], 2, None, Metadata()
    for segments in range(1, MAX_SEGMENTS + 1):
        while (match := _MARKER.search(data, at)) and match[1][0] in _STANDALONE:
            at = match.end()
        if match is None or match[1][0] == _EOI:
            return None
        marker, start = match[1][0], match.end()
        at = start + int.from_bytes(data[start : start + 2], "big")
        if at < start + 2 or at > len(data):
            return None
        if marker == _SOS:
            if frame is None or at < start + 3:
                return None
            several = frame[0] in _PROGRESSIVE or data[start + 2] < frame[4]
            scans, more = _count_scans(data, at) if several else (1, 0)
            whole = metadata.dropped == 0 and match.start() == sum(map(len, kept))
            return JpegHeader(
                width=frame[3],
                height=frame[2],
                channels=frame[4],
                bits=frame[1],
                arithmetic=frame[0] >= 0xC9,
                scans=scans,
                segments=segments + more,
                orientation=metadata.orientation,
                data=data if whole else b"".join([*kept, memoryview(data)[match.start() :]]),
            )
        if marker in _METADATA:
            metadata.add(marker, data[start + 2 : at])
            continue
        if marker in _SOF and frame is None:
            if at < start + 8:
                return None
            height, width = (int.from_bytes(data[i : i + 2], "big") for i in (start + 3, start + 5))
            frame = (marker, data[start + 2], height, width, data[start + 7])
        kept.append(data[match.start() : at])
    return JpegHeader(0, 0, 0, 0, False, 0, MAX_SEGMENTS + 1, 1, b"")


def count_scans(data: bytes) -> int:
    """Count the scans of a JPEG stream inside another format, which may lack its tables: at least 1."""
    header = read_jpeg(data)
    return 1 if header is None else header.scans


class Metadata:
    """Metadata segments that are left out, and the orientation in them."""

    def __init__(self) -> None:
        self.dropped = 0
        self._exif: int | None = None
        self._xmp: int | None = None

    @property
    def orientation(self) -> int:
        """Orientation of EXIF, or of XMP where EXIF has none."""
        return self._exif or self._xmp or 1

    def add(self, marker: int, content: bytes) -> None:
        """Record a segment."""
        self.dropped += 1
        if marker == _APP1 and content.startswith(b"Exif\0") and self._exif is None:
            self._exif = exif_orientation(content)
        elif marker == _APP1 and content.startswith(b"http://ns.adobe.com/xap/1.0/\0") and self._xmp is None:
            self._xmp = xmp_orientation(content)


def _count_scans(data: bytes, at: int) -> tuple[int, int]:
    """Count scans from the one whose header ends at ``at``, and segments between them, up to their limits."""
    scans, segments = 1, 0
    while scans <= MAX_SCANS and segments <= MAX_SEGMENTS:
        match = _AFTER_SCAN.search(data, at)
        # An unknown marker or a second start is an error to decoders; so is what has no length.
        if match is None or match[1][0] < 0xC0 or match[1][0] in (0xD8, _EOI):
            break
        at = match.end() + max(2, int.from_bytes(data[match.end() : match.end() + 2], "big"))
        segments += 1
        scans += match[1][0] == _SOS
    return scans, segments


def exif_orientation(block: bytes) -> int | None:
    """Return 1 (upright) to 8, from an EXIF block (with or without ``Exif\\0\\0`` in front); None: it does not say."""
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
    """Return the orientation in an XMP packet."""
    found = _XMP.search(packet)
    return int(found[1]) if found else None


def claimed_bytes(block: bytes) -> int:
    """Sum the sizes that the tags of an EXIF block (or of a TIFF file) declare; overlaps count each time."""
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


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Read the width and height of a WebP file in pixels. Pillow allocates and fills the canvas, of up to 4 gigapixels,
    when it opens the file. None for other formats."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind, header = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(header[4:7], "little"), 1 + int.from_bytes(header[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(header[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(header[6:8], "little") & 0x3FFF, int.from_bytes(header[8:10], "little") & 0x3FFF
