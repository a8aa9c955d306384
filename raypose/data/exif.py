"""How a picture was held when it was taken: the orientation tag of EXIF, XMP and TIFF.

Tags are read here and not by Pillow, which copies all of them: sixty thousand that share one
stretch of a file cost gigabytes. What cannot be read says nothing about the pixels: the picture is
then taken to be upright, as in every viewer.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["ORIENTATION", "Directory", "Tag", "as_stored", "directory", "orientation", "upright"]

ORIENTATION = 0x0112
_HEAD = b"Exif\x00\x00"
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\s*["'<]""")


class Tag(NamedTuple):
    """One tag: its kind, how many values, their bytes or where they lie, and its own place."""

    kind: int
    length: int
    field: bytes
    place: int


class Directory(NamedTuple):
    """The tags of one directory of a TIFF file.

    Attributes:
        order: "<" or ">".
        wide: whether it is a BigTIFF.
        tags: number → tag.
        num_bytes: that all values take together, as they claim.
    """

    order: str
    wide: bool
    tags: dict[int, Tag]
    num_bytes: int

    def number(self, tag: int) -> int | None:
        """Return a single whole number, or None where the tag is absent or something else."""
        kind, count, field, _ = self.tags.get(tag, Tag(0, 0, b"", 0))
        code = _WHOLE.get(kind)
        if code is None or count != 1 or _SIZES[kind] > len(field):
            return None
        (value,) = struct.unpack_from(self.order + code, field)
        return int(value)


def directory(content: bytes, at: int | None = None) -> Directory | None:
    """Read the tags of a TIFF file, or of an EXIF block, which is one.

    Args:
        content: from the byte order on.
        at: where the directory lies; by default, where the header says.

    Returns:
        None where there is no such thing.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        return None
    try:
        (version,) = struct.unpack_from(order + "H", content, 2)
        wide = version == 43
        if at is None:
            (at,) = struct.unpack_from(order + ("Q" if wide else "I"), content, 8 if wide else 4)
        (count,) = struct.unpack_from(order + ("Q" if wide else "H"), content, at)
        return _read(content, order, wide, at + (8 if wide else 2), count)
    except (struct.error, OverflowError):
        return None


def _read(content: bytes, order: str, wide: bool, at: int, count: int) -> Directory:
    form, step, room = (order + "HHQ8s", 20, 8) if wide else (order + "HHI4s", 12, 4)
    tags: dict[int, Tag] = {}
    num_bytes = 0
    for place in range(at, min(at + count * step, len(content) - step + 1), step):
        number, kind, values, field = struct.unpack_from(form, content, place)
        size = _SIZES.get(kind, 0) * values
        num_bytes += size if size > room else 0
        tags.setdefault(number, Tag(kind, values, field, place))
    return Directory(order, wide, tags, num_bytes)


def orientation(exif: bytes, xmp: bytes) -> int:
    """Return 1 to 8: what EXIF says, else XMP; 1 where neither can be read or makes sense."""
    while exif.startswith(_HEAD):  # some programs write the head twice
        exif = exif[len(_HEAD) :]
    found = directory(exif)
    if found is not None and ORIENTATION in found.tags:
        value = found.number(ORIENTATION)
        return value if value in range(1, 9) else 1  # type: ignore[return-value]
    match = _XMP.search(xmp)
    return int(match[1]) if match else 1


def upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo what the tag says was done to a picture (H, W, …): 1 to 8, all else is upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def as_stored(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Return a view of an upright picture in which it lies as in its file: `upright` undone."""
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
