"""What the markers of a JPEG file say, read before anything is decoded.

A progressive JPEG may repeat scans: each costs a pass over the picture and a few bytes. The markers also carry
metadata (EXIF, thumbnails, color profiles) that no pixel depends on; they are left out of what decoders get.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlkit.processors.exif import exif_orientation, xmp_orientation

MAX_SCANS = 100
MAX_SEGMENTS = 10_000

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_AFTER_SCAN = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # restart markers belong to the scan
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_EOI, _SOS, _APP1, _COMMENT = 0xD9, 0xDA, 0xE1, 0xFE
_METADATA = {*range(0xE1, 0xF0), _COMMENT} - {0xEE}  # 0xEE is Adobe's, which says what the channels are


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
    """The header of a JPEG file; None where it is too damaged to tell. Takes time in proportion to the file.

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
    """Scans of a JPEG stream inside another format, which may lack its tables: at least 1."""
    header = read_jpeg(data)
    return 1 if header is None else header.scans


class Metadata:
    """What is left out, and what of it matters."""

    def __init__(self) -> None:
        self.dropped = 0
        self._exif: int | None = None
        self._xmp: int | None = None

    @property
    def orientation(self) -> int:
        """EXIF's; that of XMP where EXIF has none."""
        return self._exif or self._xmp or 1

    def add(self, marker: int, content: bytes) -> None:
        """Take note of a segment."""
        self.dropped += 1
        if marker == _APP1 and content.startswith(b"Exif\0") and self._exif is None:
            self._exif = exif_orientation(content)
        elif marker == _APP1 and content.startswith(b"http://ns.adobe.com/xap/1.0/\0") and self._xmp is None:
            self._xmp = xmp_orientation(content)


def _count_scans(data: bytes, at: int) -> tuple[int, int]:
    """Scans from the one whose header ends at ``at``, and segments between them, each as far as its limit."""
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
