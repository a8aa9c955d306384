"""JPEG files: their headers, what they may cost, and their pixels by libjpeg-turbo.

libjpeg goes on after errors and gives grey or shifted blocks; here its first complaint about a scan
refuses the picture. Complaints about what is not pixels, such as a broken colour profile, do not.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg

from raypose.data.bounds import check_count
from raypose.errors import BadPicture

__all__ = ["Header", "bare", "check_scans", "decode", "header"]

MAX_SCANS = 32
"""Of one picture: encoders make 10 or so, and every further one costs a pass over all pixels."""
MAX_SEGMENTS = 10_000
PROGRESSIVE_BYTES = 16 << 20
"""Of the scans of a picture that is in several, beside 8 bytes for every 5 pixels: such data takes
some ten times as long to decode as in one scan, 1 s for each 25 MB. Encoders at their best quality
stay below it."""
_EXIF, _XMP = b"Exif\x00\x00", b"http://ns.adobe.com/xap/1.0/\x00"
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""In a scan, where 0 and restarts after 0xff are data."""
_FILL = re.compile(rb"\xff+")
"""Before a marker, as many as one likes: 16 MiB of them are stepped over at once."""
_PLAIN_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_BESIDES = re.compile("ICC|JFIF")
"""Complaints of libjpeg about what does not touch the pixels."""


class Header(NamedTuple):
    """What a file says before its first scan.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        channels: 1 for grey, 3 for colours, 4 for CMYK.
        in_parts: whether more than one scan may make up the picture.
        exif: the block; empty where there is none.
        xmp: the packet; empty where there is none.
        segments: (marker, first byte, end) of each, the markers themselves included.
    """

    width: int
    height: int
    channels: int
    in_parts: bool
    exif: bytes
    xmp: bytes
    segments: list[tuple[int, int, int]]


def header(content: bytes) -> Header:
    """Read what comes before the first scan.

    Raises:
        BadPicture: where it is not so formed.
    """
    width = height = channels = -1
    in_parts = False
    exif = xmp = b""
    segments: list[tuple[int, int, int]] = []
    at = 2
    while True:
        marker, first, end = _segment(content, at)
        if marker == 0xDA:
            break
        segments.append((marker, first, end))
        check_count(len(segments), MAX_SEGMENTS, "segments")
        if marker in _FRAMES and width < 0:
            height = int.from_bytes(content[first + 5 : first + 7])
            width = int.from_bytes(content[first + 7 : first + 9])
            channels = content[first + 9]
            in_parts = marker in _PROGRESSIVE
        elif marker == 0xE1:
            if not exif and content.startswith(_EXIF, first + 4):
                exif = content[first + 4 : end]
            elif not xmp and content.startswith(_XMP, first + 4):
                xmp = content[first + 4 + len(_XMP) : end]
        at = end
    if width < 0:
        raise BadPicture("damaged picture (JPEG without a frame)")
    in_parts = (
        in_parts or int.from_bytes(content[first + 4 : first + 5]) < channels
    )  # of the channels in the first scan
    return Header(width, height, channels, in_parts, exif, xmp, segments)


def check_scans(content: bytes, head: Header) -> None:
    """Refuse more passes over the pixels, and more data for these, than encoders make.

    Raises:
        BadPicture: with their number, as far as it was counted.
    """
    if not head.in_parts:
        return  # libjpeg reads no second one
    # all that looks like a scan is an upper bound, and settles it but for other data inside
    if content.count(b"\xff\xda") > MAX_SCANS:
        _count_scans(content, head)
    allowed = max(PROGRESSIVE_BYTES, 8 * head.width * head.height // 5)
    if len(content) > allowed:  # what is behind the picture does not count
        num_bytes = _count_scans(content, head) - head.segments[-1][2]
        check_count(num_bytes, allowed, "bytes in several scans")


def _count_scans(content: bytes, head: Header) -> int:
    """Refuse too many scans; return where the picture ends."""
    at = head.segments[-1][2]
    num_scans = num_segments = 0
    while (found := _MARKER.search(content, at)) and found[0] != b"\xff\xd9":
        num_scans += found[0] == b"\xff\xda"
        num_segments += 1
        check_count(num_scans, MAX_SCANS, "scans or more")
        check_count(num_segments, MAX_SEGMENTS, "segments or more")
        _, _, at = _segment(content, found.start())
    return found.start() if found else len(content)


def decode(content: bytes, head: Header, *, min_side: int = 0) -> npt.NDArray[np.uint8] | None:
    """Decode as stored.

    Args:
        content: of the file.
        head: of it.
        min_side: where set, decode at a fraction of the size, no side below this many pixels.

    Returns:
        uint8 (H, W, 3), RGB, or (H, W, 4), CMYK as Adobe stores it, where 255 is no ink. None where
        libjpeg-turbo does not know the sampling of colours.

    Raises:
        BadPicture: at the first fault.
    """
    try:
        return _decoded(content, head, min_side)
    except ValueError as error:
        if "subsampling" in str(error):
            return None
        if not _BESIDES.search(str(error)):
            raise _damaged(error) from None
    try:
        return _decoded(bare(content, head), head, min_side)
    except ValueError as error:
        raise _damaged(error) from None


def bare(content: bytes, head: Header) -> bytes:
    """Return the file without what applications put into its header, but for its colours."""
    kept = []
    for marker, first, end in head.segments:
        if marker == 0xE0 and content.startswith(b"JFIF", first + 4):
            kept.append(_PLAIN_JFIF)  # it says that components are luma and chroma
        elif marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(content[first:end])  # 0xEE is Adobe's, which says what components are
    return b"".join([b"\xff\xd8", *kept, content[head.segments[-1][2] :]])


def _decoded(content: bytes, head: Header, min_side: int) -> npt.NDArray[np.uint8]:
    side = min(min_side, head.width, head.height)
    colors = "CMYK" if head.channels == 4 else "RGB"
    pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
        content, colors, min_height=side, min_width=side
    )
    return pixels


def _damaged(error: ValueError) -> BadPicture:
    return BadPicture(f"damaged picture ({' '.join(str(error).split())[:80]})")


def _segment(content: bytes, at: int) -> tuple[int, int, int]:
    """Return the marker that begins at a place, its place without fill bytes, and its end."""
    fill = _FILL.match(content, at)
    at = fill.end() - 1 if fill else at
    marker = content[at + 1] if at + 1 < len(content) and content[at] == 0xFF else 0
    if not marker or marker in (0xD8, 0xD9):
        raise BadPicture(f"damaged picture (JPEG without a segment at byte {at})")
    if marker in _ALONE:
        return marker, at, at + 2
    size = int.from_bytes(content[at + 2 : at + 4])
    if size < 2 or at + 2 + size > len(content):
        raise BadPicture(f"damaged picture (JPEG segment of {size} bytes at byte {at})")
    return marker, at, at + 2 + size
