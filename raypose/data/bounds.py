"""What a picture may cost: bounds on what would be made of it, told from its bytes beforehand.

Time and memory are to grow with pixels alone. A progressive JPEG may come back to all of them in
scans of a few bytes each; a strip of a line grows by its other side when it is scaled; a tile or a
canvas may be larger than the picture on it.
"""

from __future__ import annotations

import re

from PIL import Image

from raypose.errors import BadPicture

__all__ = ["check_canvas", "check_scans", "check_size", "check_tiles", "too_many"]

MAX_RATIO = 100
"""Of the sides; panoramas have 20 at most."""
MAX_SCANS = 32
"""Of a JPEG; encoders write 10 or so."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Ends a scan: what is neither a stuffed byte nor a restart."""
_SCAN, _END, _ALONE = 0xDA, 0xD9, (0x01, 0xD8)


def check_size(width: int, height: int, *, max_pixels: int) -> None:
    """Refuse too many pixels, none, or a strip.

    Raises:
        BadPicture: saying how many, or how long.
    """
    if width * height > max_pixels:
        raise BadPicture(too_many(width * height, max_pixels))
    if width < 1 or height < 1:
        raise BadPicture("picture without pixels")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BadPicture(
            f"a strip of {width} × {height} pixels, where {MAX_RATIO} to 1 is the most"
        )


def check_scans(content: bytes) -> None:
    """Refuse a JPEG of more scans than encoders write: each costs as much as all of its pixels.

    Raises:
        BadPicture: saying how many are the most.
    """
    place, scans = 2, 0
    while (found := _MARKER.search(content, place)) is not None:
        place = found.end()
        kind = content[place - 1]
        if kind == _END:
            return
        if kind in _ALONE:
            continue
        if kind == _SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise BadPicture(f"a JPEG of over {MAX_SCANS} scans; save it anew")
        place += int.from_bytes(content[place : place + 2], "big")


def check_canvas(content: bytes, *, max_pixels: int) -> None:
    """Refuse a WebP with a canvas of too many pixels, which its decoder makes as it opens it.

    Raises:
        BadPicture: saying how many.
    """
    if content[:4] == b"RIFF" and content[8:16] == b"WEBPVP8X":
        width, height = (int.from_bytes(content[k : k + 3], "little") + 1 for k in (24, 27))
        check_size(width, height, max_pixels=max_pixels)


def check_tiles(image: Image.Image, *, max_pixels: int) -> None:
    """Refuse a TIFF whose tiles are larger than any picture may be.

    Raises:
        BadPicture: saying how large.
    """
    tags = getattr(image, "tag_v2", None)
    if not tags:
        return
    sides = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if all(isinstance(side, int) for side in sides) and sides[0] * sides[1] > max_pixels:
        raise BadPicture(f"tiles of {sides[0]} × {sides[1]} pixels, larger than a picture may be")


def too_many(pixels: int, max_pixels: int) -> str:
    """Say that a picture has more pixels than are allowed."""
    claimed = f"{pixels / 1e6:.0f} megapixels" if pixels else "too many pixels"
    return f"header claims {claimed} where {max_pixels / 1e6:.0f} are allowed"
