"""Picture bytes → uint8 (H, W, 3), upright: the one decoder of packing, training and serving.

EXIF orientation is applied (a sideways photo is another pose), formats are limited, and a header
that claims too many pixels is refused before anything is decoded. JPEG goes straight to
libjpeg-turbo, which gives the same pixels as Pillow does in two thirds of the time; where it
objects to a file, and for all other formats, Pillow decides.
"""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from raypose.errors import BadPicture

__all__ = ["Pixels", "convert", "decode", "encode", "shrink"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
Pixels = npt.NDArray[np.uint8]
_ORIENTATION = 0x0112
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError)
"""What Pillow raises over files that are cut off or wrong."""


def decode(content: bytes, *, max_pixels: int, min_side: int = 0) -> Pixels:
    """Decode a picture, upright, in RGB.

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
    if image.width * image.height > max_pixels:
        raise BadPicture(_too_many(image.width * image.height, max_pixels))
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        return _upright(np.array(image.convert("RGB")), orientation)
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise BadPicture(_damaged(error)) from None


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
    """Decode by libjpeg-turbo; None where it will not, or the colours are not plain."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        if height * width > max_pixels:
            raise BadPicture(_too_many(height * width, max_pixels))
        if colors not in ("YCbCr", "Gray", "RGB"):
            return None
        side = min(min_side, height, width)
        pixels: Pixels = simplejpeg.decode_jpeg(content, min_height=side, min_width=side)
    except ValueError:
        return None
    # most files have no such tag, and asking Pillow costs more than looking for one
    if b"Exif\x00\x00" in content or b"tiff:Orientation" in content:
        return _upright(pixels, _orientation(content))
    return pixels


def _orientation(content: bytes) -> int:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadPicture(f"not a picture in a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        claimed = next((int(word[1:]) for word in str(error).split() if word[1:].isdigit()), 0)
        raise BadPicture(_too_many(claimed, max_pixels)) from None
    except DAMAGED as error:
        raise BadPicture(_damaged(error)) from None
    return convert(image, max_pixels=max_pixels)


def _damaged(error: Exception) -> str:
    return f"damaged picture ({' '.join(str(error).split())[:80]})"


def _too_many(pixels: int, max_pixels: int) -> str:
    claimed = f"{pixels / 1e6:.0f} megapixels" if pixels else "too many pixels"
    return f"header claims {claimed} where {max_pixels / 1e6:.0f} are allowed"
