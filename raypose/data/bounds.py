"""What a picture may claim and cost, whatever its file says: checked before anything is made.

A few bytes can ask for gigabytes or hours. These bounds hold for every format and every door; those
on the parts of a file are with the format, in `headers` and `jpeg`.
"""

from __future__ import annotations

from raypose.errors import BadPicture

__all__ = ["MAX_RATIO", "check_count", "check_sides"]

MAX_RATIO = 100
"""Between the sides: wide panoramas stay under 20, and of a strip no posture can be told."""


def check_sides(width: int, height: int, *, max_pixels: int | None = None) -> None:
    """Refuse a picture by its sides.

    Args:
        width: in pixels.
        height: in pixels.
        max_pixels: of the whole; None where it is in memory already.

    Raises:
        BadPicture: where it has no pixels, too many, or is a strip.
    """
    if width <= 0 or height <= 0:
        raise BadPicture(f"picture without pixels: {width} × {height}")
    if max_pixels is not None and width * height > max_pixels:
        unit, name = (1e6, "megapixels") if max_pixels >= 1e6 else (1, "pixels")
        claimed, allowed = width * height / unit, max_pixels / unit
        raise BadPicture(f"header claims {claimed:.0f} {name} where {allowed:.0f} are allowed")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BadPicture(
            f"a strip of {width} × {height} pixels; sides may differ {MAX_RATIO} times"
        )


def check_count(found: int, allowed: int, what: str) -> None:
    """Refuse a file that has more of its parts than any program writes.

    Raises:
        BadPicture: naming the parts.
    """
    if found > allowed:
        raise BadPicture(f"file of {found} {what} where {allowed} are allowed")
