"""Decoded pictures → uint8 (3, S, S): the one way to a square in training, evaluation and serving.

Arrays lie in memory with channels last, as decoders give pictures and convolutions want them, so
that nothing is turned over on the way. Resizing is torch's antialiased bicubic on uint8, within one
level of Pillow's and so of open_clip's own preprocessing. Augmentation and normalisation happen
later, on the device: see `augment`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from raypose.data.bounds import check_sides
from raypose.data.images import Pixels, decode

__all__ = ["Resize", "preprocess", "to_square"]

Resize = Literal["shortest", "longest", "squash", "trim"]
MARGIN = 32
"""Levels by which a margin of one colour may vary: compression leaves specks."""
AIR = 0.04
"""Of the longer side, that is left around what is no margin."""
CROP_FIRST = 4
"""Ratio of the sides from which on a middle is cut out before it is scaled."""


def preprocess(
    content: bytes, *, size: int, resize: Resize, max_pixels: int, dct_scaled: bool = False
) -> Pixels:
    """Decode and resize.

    Args:
        content: of the file.
        size: pixels of a side.
        resize: the way to a square.
        max_pixels: a header that claims more is refused.
        dct_scaled: decode large JPEGs at a fraction of their size, at some loss (42 dB).

    Returns:
        uint8 (3, size, size), RGB.

    Raises:
        BadPicture: as `images.decode`.
    """
    # of a picture that is to be trimmed any part may be the picture
    least = size if dct_scaled and resize != "trim" else 0
    pixels = decode(content, max_pixels=max_pixels, min_side=least)
    return to_square(pixels, size, resize=resize)


def to_square(pixels: Pixels, size: int, *, resize: Resize) -> Pixels:
    """Bring uint8 (H, W, 3) to (3, size, size): crop the middle, pad with black, stretch, or trim.

    To trim is to cut away a margin of one colour, and to pad what is left with it.

    Raises:
        BadPicture: where it has no pixels, or is a strip.
    """
    height, width = pixels.shape[:2]
    check_sides(width, height)
    if resize == "squash":
        return _scaled(pixels, size, size)
    if resize == "shortest":
        short = min(width, height)
        wide, high = int(size * width / short), int(size * height / short)
        left, top = round((wide - size) / 2.0), round((high - size) / 2.0)
        if max(wide, high) > CROP_FIRST * size:
            return _middle(pixels, (left, top), (wide, high), size)
        return _scaled(pixels, high, wide)[:, top : top + size, left : left + size]
    colour: Pixels = np.zeros(3, dtype=np.uint8)
    if resize == "trim":
        pixels, colour = _trimmed(pixels)
        height, width = pixels.shape[:2]
    ratio = max(width, height) / size
    wide, high = max(1, round(width / ratio)), max(1, round(height / ratio))
    left, top = (size - wide) // 2, (size - high) // 2
    padded = np.full((size, size, 3), colour, dtype=np.uint8).transpose(2, 0, 1)
    padded[:, top : top + high, left : left + wide] = _scaled(pixels, high, wide)
    return padded


def _trimmed(pixels: Pixels) -> tuple[Pixels, Pixels]:
    """Return (H, W, 3) less a margin of one colour, and the colour to pad it with.

    It is the rim's where most of that is of one colour, cut or not; else black.
    """
    height, width = pixels.shape[:2]
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(int)
    middle = np.median(rim, axis=0)
    alike = (np.abs(rim - middle) <= MARGIN).all(axis=1).mean()
    colour = middle.astype(np.uint8) if alike > 0.5 else np.zeros(3, dtype=np.uint8)
    # whole rows side by side: loops over three values are ten times as slow
    low, high = (np.tile(np.clip(middle + d, 0, 255).astype(np.uint8), width)
                 for d in (-MARGIN, MARGIN))  # fmt: skip
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    seen = (rows < low) | (rows > high)
    spans = []
    for found in (seen.any(axis=1), seen.any(axis=0).reshape(width, 3).any(axis=1)):
        (places,) = np.nonzero(found)
        spans.append((int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0))
    longest = max(last - first for first, last in spans)
    if longest == 0:  # nothing but margin
        return pixels, colour
    air = max(1, round(AIR * longest))
    (top, bottom), (left, right) = ((max(0, first - air), last + air) for first, last in spans)
    return np.ascontiguousarray(pixels[top:bottom, left:right]), colour


def _middle(pixels: Pixels, corner: tuple[int, int], scaled: tuple[int, int], size: int) -> Pixels:
    """Resize a square of a long picture to (3, size, size), and make nothing of the rest.

    Pillow begins at a fraction of a pixel, where torch can begin at the picture's edge alone.

    Args:
        pixels: uint8 (H, W, 3).
        corner: left and top of the square, in the picture as scaled.
        scaled: width and height of the picture as scaled.
        size: of the square.
    """
    slices, box = [], []
    for length, first, whole in zip(
        (pixels.shape[1], pixels.shape[0]), corner, scaled, strict=True
    ):
        scale = length / whole
        reach = 2 * max(scale, 1.0) + 1  # of the kernel, in pixels of the source
        start = max(0, math.floor(first * scale - reach))
        slices.append(slice(start, math.ceil((first + size) * scale + reach)))
        box.append((first * scale - start, (first + size) * scale - start))
    (left, right), (top, bottom) = box
    image = Image.fromarray(np.ascontiguousarray(pixels[slices[1], slices[0]]))
    bicubic, edges = Image.Resampling.BICUBIC, (left, top, right, bottom)
    return np.array(image.resize((size, size), bicubic, box=edges)).transpose(2, 0, 1)


def _scaled(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize uint8 (H, W, 3) to (3, height, width)."""
    # in this order torch sees that channels come last, even of one picture, and keeps them there:
    # 1.6 times as fast as turning them over
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    scaled = F.interpolate(image, (height, width), mode="bicubic", antialias=True)
    result: Pixels = scaled[0].numpy()
    return result
