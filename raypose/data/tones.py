"""A picture of Pillow's in any mode → uint8 (H, W, 3): tones, transparency, more than 8 bits.

- What is transparent is laid over white, in every mode that has transparency.
- 16-bit grey goes by its whole range: 65535 is white. Whole numbers of 32 bits are taken for 16-bit
  ones where they fit, and refused where not.
- Fractions go by 0..1, or else by 0..255 or 0..65535, whichever is the first to hold all of them;
  others are refused, as are infinities.
- Colours are taken as they are: profiles and gammas are passed over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from raypose.errors import BadPicture

__all__ = ["rgb"]

ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
RANGES = (1.0, 255.0, 65535.0)


def rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the pixels of a picture that is loaded, as they are stored.

    Raises:
        BadPicture: where they cannot be told in 8 bits.
    """
    if image.mode.startswith("I;16"):
        return _stacked(_from_16(np.asarray(image), image.info.get("transparency")))
    if image.mode == "I":
        return _stacked(_from_32(np.asarray(image), image.info.get("transparency")))
    if image.mode == "F":
        return _stacked(_from_fractions(np.asarray(image)))
    if image.mode in ALPHA or "transparency" in image.info:
        return np.array(_over_white(image))
    if image.mode not in PLAIN:
        raise BadPicture(f"colours in mode {image.mode}; save it as RGB")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _over_white(image: Image.Image) -> Image.Image:
    whole = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = whole.getchannel("A")
    under = Image.new("RGB", whole.size, "white")
    under.paste(whole, mask=alpha)
    return under


def _from_16(grey: npt.NDArray[Any], transparent: Any) -> npt.NDArray[np.uint8]:
    """Return uint8 (H, W) of unsigned 16-bit grey, of which one value may be transparent."""
    tones = ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if isinstance(transparent, int):
        tones[grey == transparent] = 255
    return tones


def _from_32(grey: npt.NDArray[Any], transparent: Any) -> npt.NDArray[np.uint8]:
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > RANGES[-1]:
        raise BadPicture(
            f"grey values from {low} to {high}, where 0 to 65535 can be told; save it in 8 bits"
        )
    return _from_16(grey.astype(np.uint16), transparent)


def _from_fractions(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    low, high = float(grey.min()), float(grey.max())  # of which one is NaN where any is
    top = next((top for top in RANGES if low >= 0.0 and high <= top), None)
    if top is None:
        raise BadPicture(
            f"grey values from {low:g} to {high:g}, where 0 to 1, 255 or 65535 can be told; save "
            "it in 8 bits"
        )
    return np.rint(grey * np.float32(255.0 / top)).astype(np.uint8)


def _stacked(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)
