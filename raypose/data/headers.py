"""What files other than JPEG say before they are opened: their format, sides and number of parts.

Pillow reads the parts of a file one by one in Python, and some decoders make the whole canvas when
a file is opened: a picture that claims too much has to be refused before that. What is wrong in
other ways is left for Pillow to find.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from raypose.data import exif
from raypose.data.bounds import check_count, check_sides
from raypose.errors import BadPicture

__all__ = ["FORMATS", "check", "format_of", "is_whole_png", "turned"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_CHUNKS = 65_536
"""Of a PNG or GIF up to the end of its first picture; libpng cuts 25 megapixels into 10,000."""
MAX_PROFILES = 16
"""Colour profiles of a PNG, which may have one: Pillow unpacks each, up to a megabyte."""
MAX_PIECES = 65_536
"""Strips or tiles of a TIFF: one for each row of the tallest picture allowed."""
MAX_RUNS_BYTES = 1 << 20
"""Of a run-length BMP, which Pillow decodes in Python, at a second for each megabyte or so."""
_SIGNATURES = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)
_WIDTH, _HEIGHT, _STRIPS, _ROWS, _TILE_WIDTH, _TILE_HEIGHT, _TILES = (
    256,
    257,
    273,
    278,
    322,
    323,
    324,
)
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""Left, top and steps of the passes of an interlaced PNG."""
_INNER = (34665, 34853, 40965)


def format_of(content: bytes) -> str:
    """Return one of `FORMATS`.

    Raises:
        BadPicture: where it is none of them.
    """
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WEBP"
    for signature, name in _SIGNATURES:
        if content.startswith(signature):
            return name
    raise BadPicture(f"not a picture in a known format ({', '.join(FORMATS)})")


def check(content: bytes, kind: str, *, max_pixels: int) -> None:
    """Refuse a file that would cost too much to open.

    Args:
        content: of the file.
        kind: its format, other than JPEG.
        max_pixels: of the canvas.

    Raises:
        BadPicture: saying what it has too much of.
    """
    checks = {"PNG": _png, "WEBP": _webp, "BMP": _bmp, "GIF": _gif, "TIFF": _tiff}
    try:
        checks[kind](content, max_pixels)
    except (struct.error, IndexError):
        raise BadPicture(f"damaged picture ({kind} that ends within its header)") from None


def turned(content: bytes) -> tuple[bytes, int]:
    """Return a TIFF whose tag calls it upright, and the orientation, 1 to 8, that it had.

    Pillow turns a TIFF when it loads it, and no other format.
    """
    found = exif.directory(content)
    tag = found.tags.get(exif.ORIENTATION) if found else None
    if found is None or tag is None:
        return content, 1
    value = found.number(exif.ORIENTATION)
    form = "HHQH6x" if found.wide else "HHIH2x"
    plain = struct.pack(found.order + form, exif.ORIENTATION, 3, 1, 1)
    patched = b"".join([content[: tag.place], plain, content[tag.place + len(plain) :]])
    return patched, value if value in range(1, 9) else 1  # type: ignore[return-value]


def is_whole_png(content: bytes) -> bool:
    """Return whether the data of a PNG fills all its rows, by unpacking it once more.

    Where it ends between two rows, Pillow leaves the rest black. A picture that does not end in
    black need not be asked.
    """
    width, height, bits, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    depth = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    needed = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        needed += max(0, rows) * (1 + -(-columns * depth // 8)) if columns > 0 else 0
    unpacked = zlib.decompressobj()
    for part in _data_of_png(content):
        while part and needed > 0:
            needed -= len(unpacked.decompress(part, 1 << 20))
            part = unpacked.unconsumed_tail
    return needed <= 0


def _data_of_png(content: bytes) -> Iterator[bytes]:
    at = 8
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        if content[at + 4 : at + 8] == b"IDAT":
            yield content[at + 8 : at + 8 + size]
        at += 12 + size


def _png(content: bytes, max_pixels: int) -> None:
    width, height = struct.unpack_from(">II", content, 16)
    check_sides(width, height, max_pixels=max_pixels)
    at, num_chunks, num_profiles = 8, 0, 0
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        num_profiles += content[at + 4 : at + 8] == b"iCCP"
        at += 12 + size
        num_chunks += 1
        check_count(num_profiles, MAX_PROFILES, "colour profiles or more")
        check_count(num_chunks, MAX_CHUNKS, "chunks or more")


def _webp(content: bytes, max_pixels: int) -> None:
    kind = content[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(content[24:27], "little")
        height = 1 + int.from_bytes(content[27:30], "little")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    check_sides(width, height, max_pixels=max_pixels)


def _bmp(content: bytes, max_pixels: int) -> None:
    (header_size,) = struct.unpack_from("<I", content, 14)
    if header_size < 40:
        width, height = struct.unpack_from("<HH", content, 18)
    else:
        width, height, _, _, compression = struct.unpack_from("<iiHHI", content, 18)
        if compression in (1, 2):
            check_count(len(content), MAX_RUNS_BYTES, "bytes of run-length BMP")
    check_sides(width, abs(height), max_pixels=max_pixels)


def _gif(content: bytes, max_pixels: int) -> None:
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    at = 13 + (6 << (flags & 7) if flags & 0x80 else 0)
    num_blocks = 0
    while content[at] == 0x21:
        at += 2
        size = 1
        while size:  # the empty block that ends an extension is one, too
            size = content[at]
            at += 1 + size
            num_blocks += 1
            check_count(num_blocks, MAX_CHUNKS, "blocks or more")
    if content[at] == 0x2C:
        left, top, wide, high = struct.unpack_from("<HHHH", content, at + 1)
        width, height = max(width, left + wide), max(height, top + high)
    check_sides(width, height, max_pixels=max_pixels)


def _tiff(content: bytes, max_pixels: int) -> None:
    found = exif.directory(content)
    if found is None:
        raise BadPicture("damaged picture (TIFF without a directory)")
    width, height = found.number(_WIDTH) or 0, found.number(_HEIGHT) or 0
    check_sides(width, height, max_pixels=max_pixels)
    inner = [found.number(tag) for tag in _INNER]
    for part in (found, *(exif.directory(content, at) for at in inner if at)):
        if part is not None:
            check_count(part.num_bytes, len(content), "bytes in tags")
    for tag in (_STRIPS, _TILES):
        if tag in found.tags:
            check_count(found.tags[tag].length, MAX_PIECES, "strips or tiles")
    wide, high = found.number(_TILE_WIDTH) or width, found.number(_TILE_HEIGHT) or height
    check_count(wide * high, max_pixels, "pixels in a tile")
    if _STRIPS in found.tags:
        wide, high = width, found.number(_ROWS) or height
    pieces = found.tags.get(_STRIPS) or found.tags.get(_TILES)
    needed = -(-width // wide) * -(-height // high)
    if pieces and pieces.length < needed:  # Pillow leaves black what they would fill
        raise BadPicture(f"damaged picture (TIFF of {pieces.length} of {needed} strips or tiles)")
