"""Image bytes → uint8 (3, S, S): the one decoder of building, training, evaluation and serving.

EXIF orientation is applied (a sideways photo is another pose), formats are limited, and a header
that claims too many pixels is refused before anything is decoded. Resizing is Pillow's bicubic, as
in open_clip's own preprocessing, to the pixel. Augmentation and normalisation happen later, on the
device: see `augment`.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from raypose.errors import DataError

__all__ = ["FORMATS", "Resize", "decode", "preprocess", "shrink", "to_square"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
Resize = Literal["shortest", "longest", "squash"]


def decode(content: bytes, *, max_pixels: int) -> Image.Image:
    """Decode a picture, upright, in RGB.

    Raises:
        DataError: saying what is wrong, without a name; the caller knows it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise DataError(_too_many(image.width * image.height, max_pixels))
        return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise DataError(f"not a picture in a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        claimed = next((int(word[1:]) for word in str(error).split() if word[1:].isdigit()), 0)
        raise DataError(_too_many(claimed, max_pixels)) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DataError(f"damaged picture ({' '.join(str(error).split())[:80]})") from None


def to_square(image: Image.Image, size: int, *, resize: Resize) -> Image.Image:
    """Bring an image to size × size pixels: crop the middle, pad with black, or stretch."""
    width, height = image.size
    if resize == "squash":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    if resize == "shortest":
        short = min(width, height)
        scaled = (int(size * width / short), int(size * height / short))
    else:
        ratio = max(width, height) / size
        scaled = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    square = Image.new("RGB", (size, size))
    offset = tuple(round((side - size) / 2.0) for side in scaled)
    if resize == "longest":
        offset = tuple(-((size - side) // 2) for side in scaled)
    square.paste(image, (-offset[0], -offset[1]))
    return square


def preprocess(
    content: bytes, *, size: int, resize: Resize, max_pixels: int
) -> npt.NDArray[np.uint8]:
    """Decode and resize.

    Returns:
        uint8 (3, size, size), RGB.

    Raises:
        DataError: as `decode`.
    """
    square = to_square(decode(content, max_pixels=max_pixels), size, resize=resize)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def shrink(image: Image.Image, *, max_side: int, quality: int = 92) -> bytes:
    """Return JPEG bytes of an image whose longer side is at most `max_side` pixels."""
    copy = image.copy()
    copy.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _too_many(pixels: int, max_pixels: int) -> str:
    claimed = f"{pixels / 1e6:.0f} megapixels" if pixels else "too many pixels"
    return f"header claims {claimed} where {max_pixels / 1e6:.0f} are allowed"
