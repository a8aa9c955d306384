"""Picture bytes → uint8 (H, W, 3), upright: the one decoder of packing, training and serving.

EXIF orientation is applied (a sideways photo is another pose), formats are limited, and what would
cost more than its pixels is refused before it is decoded: see `bounds`. JPEG goes straight to
libjpeg-turbo, which gives the same pixels as Pillow does in two thirds of the time, and says where
it had to make some up; for all other formats Pillow decides, and `tones` what its modes mean. Of
several pictures in a file the first counts.
"""

from __future__ import annotations

import io
import re
import struct
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from raypose.data import bounds, tones
from raypose.errors import BadPicture

__all__ = ["Pixels", "convert", "decode", "encode", "shrink"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
Pixels = npt.NDArray[np.uint8]
_ORIENTATION = 0x0112
TURNED_BY_PILLOW = ("TIFF",)
"""Formats whose pictures Pillow turns upright as it loads them."""
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, KeyError, IndexError,
    AttributeError, OverflowError, ZeroDivisionError, RecursionError, MemoryError, RuntimeError,
)  # fmt: skip
"""What Pillow raises over files that are cut off or wrong."""
MADE_UP = ("premature end", "bad huffman code", "instead of rst", "inconsistent progression")
"""Words of libjpeg where it had to make pixels up."""
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
FEW_BYTES = 32
"""As many are left over in files of some cameras, and nothing is wrong."""


def decode(content: bytes, *, max_pixels: int, min_side: int = 0) -> Pixels:
    """Decode a picture, upright, in RGB; what is transparent over white.

    Args:
        content: of the file.
        max_pixels: a header that claims more is refused.
        min_side: where set, a JPEG may be decoded at a fraction of its size (libjpeg's scaled
            inverse transform) as long as no side falls below this many pixels.

    Returns:
        uint8 (H, W, 3).

    Raises:
        BadPicture: saying what is wrong, without a name; the caller knows it.
    """
    pixels = _decode_jpeg(content, max_pixels, min_side) if content[:2] == b"\xff\xd8" else None
    return _decode_any(content, max_pixels) if pixels is None else pixels


def convert(image: Image.Image, *, max_pixels: int) -> Pixels:
    """Return the pixels of a picture that Pillow has opened, upright, in RGB.

    Args:
        image: what Pillow has not read yet is read now.
        max_pixels: more are refused.

    Returns:
        uint8 (H, W, 3).

    Raises:
        BadPicture: as `decode`.
    """
    bounds.check_size(image.width, image.height, max_pixels=max_pixels)
    try:
        bounds.check_tiles(image, max_pixels=max_pixels)
        image.load()
        pixels = tones.rgb(image)
    except BadPicture:
        raise
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise BadPicture(_damaged(error)) from None
    return _upright(pixels, _orientation(image))


def shrink(pixels: Pixels, *, max_side: int) -> Pixels:
    """Return uint8 (h, w, 3) whose longer side is at most `max_side`; never larger than it was."""
    if max(pixels.shape[:2]) <= max_side:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    return np.asarray(image)


def encode(pixels: Pixels, *, quality: int = 90) -> bytes:
    """Return JPEG bytes of uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _decode_jpeg(content: bytes, max_pixels: int, min_side: int) -> Pixels | None:
    """Decode by libjpeg-turbo; None where it will not, or the colours are not plain.

    Raises:
        BadPicture: where it would take too much, or pixels would have to be made up.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    bounds.check_size(width, height, max_pixels=max_pixels)
    bounds.check_scans(content)
    plain = colors in ("YCbCr", "Gray", "RGB")
    side = min(min_side, height, width)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(
            content,
            colorspace="RGB" if plain else "CMYK",
            min_height=side,
            min_width=side,
        )
    except ValueError as error:
        _check_whole(str(error))
        return None
    if not plain:
        return None  # it is whole; what its inks are, Pillow knows
    # most files have no such tag, and asking Pillow costs more than looking for one
    if b"Exif\x00\x00" in content or b"tiff:Orientation" in content:
        return _upright(pixels, _jpeg_orientation(content))
    return pixels


def _check_whole(said: str) -> None:
    """Refuse a JPEG of which libjpeg says that pixels were made up."""
    left_over = _LEFT_OVER.search(said)
    lost = any(word in said.lower() for word in MADE_UP)
    if lost or (left_over and int(left_over[1]) > FEW_BYTES):
        raise BadPicture(f"damaged picture ({' '.join(said.split())[:80].lower()})")


def _jpeg_orientation(content: bytes) -> int:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _orientation(image)
    except DAMAGED:
        return 1


def _orientation(image: Image.Image) -> int:
    """Return what is still to be done to a picture: 1 where nothing is, or nobody can tell."""
    if image.format in TURNED_BY_PILLOW:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of blocks that are no EXIF
            return int(image.getexif().get(_ORIENTATION, 1))
    except DAMAGED:
        return 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo what the EXIF tag says was done to a picture: 1 to 8, all else is upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _decode_any(content: bytes, max_pixels: int) -> Pixels:
    bounds.check_canvas(content, max_pixels=max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadPicture(f"not a picture in a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        claimed = next((int(word[1:]) for word in str(error).split() if word[1:].isdigit()), 0)
        raise BadPicture(bounds.too_many(claimed, max_pixels)) from None
    except DAMAGED as error:
        raise BadPicture(_damaged(error)) from None
    return convert(image, max_pixels=max_pixels)


def _damaged(error: Exception) -> str:
    return f"damaged picture ({' '.join(str(error).split())[:80] or type(error).__name__})"
