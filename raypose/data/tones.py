"""A picture that Pillow has loaded, of any mode → RGB of 8 bits, tones kept, over white.

The rules, where 8 bits of red, green and blue cannot hold what a file says:

- Transparent and half transparent pixels lie over white, by whatever means they are so.
- Grey of 16 bits is scaled by its full range, 65535 → 255; of 12 bits by 4095; signed, by 32767
  where nothing is below zero.
- Wider integers and floating point have no full range that files keep to: values within 0..1
  (floating point only), 0..255 or 0..65535 are scaled by the first of these that holds all of them,
  others linearly from the least to the greatest in the picture. Not a number, or infinite: refused.
- Colours are read as they stand: colour profiles and gamma are not applied.

A picture is worked through in bands, so that no second copy of it is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from raypose.data.exif import as_stored
from raypose.errors import BadPicture

__all__ = ["to_rgb"]

BAND_PIXELS = 1 << 18
_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_SIGNED = 2
_Values = npt.NDArray[Any]
_Paint = Callable[[Image.Image], _Values]


def to_rgb(image: Image.Image, orientation: int) -> npt.NDArray[np.uint8]:
    """Return the pixels of a loaded picture.

    Args:
        image: of any mode.
        orientation: as EXIF has it; what is returned is upright.

    Returns:
        uint8 (H, W, 3).

    Raises:
        BadPicture: where the mode is unknown, or values are not finite.
    """
    width, height = image.size
    sides = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    pixels = np.empty((*sides, 3), dtype=np.uint8)
    stored, paint = as_stored(pixels, orientation), _painter(image)
    for top, band in _bands(image):
        stored[top : top + band.height] = paint(band)
    return pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _painter(image: Image.Image) -> _Paint:
    """Return what makes uint8 (h, W, 3), or (h, W, 1) for grey, of a band."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_painter(image)
    if image.mode in _TRANSPARENT or (image.mode in _OPAQUE and image.has_transparency_data):
        return _over_white
    if image.mode not in _OPAQUE:
        raise BadPicture(f"picture of mode {image.mode}, which has no known way to RGB")
    if image.mode == "L" and _tag(image, _SAMPLE_FORMAT) == _SIGNED:
        raise BadPicture("TIFF of signed 8-bit values, which Pillow reads as unsigned")
    return lambda band: np.asarray(band.convert("RGB"))


def _over_white(band: Image.Image) -> _Values:
    if band.mode == "La":
        band = band.convert("LA")
    rgba = band.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(white)


def _grey_painter(image: Image.Image) -> _Paint:
    low, high = _range(image)
    if _tag(image, _PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds for 8 bits only
        low, high = high, low
    clear = image.info.get("transparency") if image.mode.startswith("I;16") else None

    def paint(band: Image.Image) -> _Values:
        values = _values(image, band)
        scaled = (values.astype(np.float64) - low) * (255 / ((high - low) or 1))
        grey = scaled.round().clip(0, 255).astype(np.uint8)
        if clear is not None:
            grey[values == clear] = 255
        return grey[:, :, None]

    return paint


def _range(image: Image.Image) -> tuple[float, float]:
    """Return what becomes 0 and what becomes 255."""
    bits = _tag(image, _BITS)
    if image.mode.startswith("I;16"):
        return 0, 4095 if bits == 12 else 65535
    least, most = np.inf, -np.inf
    for _, band in _bands(image):
        values = _values(image, band)
        least, most = min(least, float(values.min())), max(most, float(values.max()))
    if not np.isfinite(least) or not np.isfinite(most):
        raise BadPicture("picture with values that are not finite numbers")
    steps: tuple[int, ...] = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    if bits == 16 and _tag(image, _SAMPLE_FORMAT) == _SIGNED:
        steps = (32767,)
    tops = [top for top in steps if least >= 0 and most <= top]
    return (0, tops[0]) if tops else (least, most)


def _values(image: Image.Image, band: Image.Image) -> _Values:
    values = np.asarray(band)
    # Pillow has no unsigned 32 bits, and calls the upper half negative
    unsigned = image.mode == "I" and _tag(image, _BITS) == 32 and _tag(image, _SAMPLE_FORMAT) == 1
    return values.view(np.uint32) if unsigned else values


def _tag(image: Image.Image, number: int) -> int | None:
    """Return a tag that a TIFF has once, or alike for all channels; 1 by default."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    value = tags.get(number, 1)
    return int(value[0] if isinstance(value, tuple) else value)
