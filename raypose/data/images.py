"""Picture bytes → uint8 (H, W, 3), upright: the one decoder of packing, training and serving.

EXIF orientation is applied (a sideways photo is another pose), formats are limited, tones and
transparency go by the rules of `tones`, and what would cost too much is refused before anything is
decoded. Of several pictures in a file the first counts. JPEG goes straight to libjpeg-turbo, which
gives the same pixels as Pillow does in two thirds of the time, and does not pass over damage.

What is wrong with a picture is always a BadPicture, and memory and time grow with its pixels only.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from raypose.data import exif, headers, jpeg
from raypose.data.bounds import check_sides
from raypose.data.tones import to_rgb
from raypose.errors import BadPicture

__all__ = ["Pixels", "convert", "decode", "encode", "is_cheap", "shrink"]

Pixels = npt.NDArray[np.uint8]
CHEAP_PIXELS = 16_000_000
"""Of a JPEG in one scan, some 0.1 s; a quarter of that in other forms, which take as long."""
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, zlib.error),
    *(LookupError, ArithmeticError, RuntimeError, MemoryError),
    *(Image.DecompressionBombError, Warning),
)
"""What Pillow raises over files that are cut off or wrong; warnings, where they are made errors."""
# opened by these and not by Image.open, whose own limit on pixels is another than ours, and warns
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_PNG_STEPS = {"L;2": 85, "L;4": 17}
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}


def decode(content: bytes, *, max_pixels: int, min_side: int = 0) -> Pixels:
    """Decode a picture, upright, in RGB, over white where it is transparent.

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
    with _reading():
        kind = headers.format_of(content)
        if kind == "JPEG":
            return _decode_jpeg(content, max_pixels, min_side)
        headers.check(content, kind, max_pixels=max_pixels)
        if kind == "TIFF":
            content, orientation = headers.turned(content)
            return _decode(content, kind, max_pixels, lambda image: orientation)
        return _decode(content, kind, max_pixels, _as_it_says)


def is_cheap(content: bytes) -> bool:
    """Tell, from its header alone, whether a picture is decoded in some 0.1 s or less.

    What is no picture, or a damaged one, is not: so those who serve others can put it aside.
    """
    try:
        kind = headers.format_of(content)
        if kind != "JPEG":
            headers.check(content, kind, max_pixels=CHEAP_PIXELS // 4)
            return True
        head = jpeg.header(content)
        most = CHEAP_PIXELS // 4 if head.in_parts else CHEAP_PIXELS
        check_sides(head.width, head.height, max_pixels=most)
    except BadPicture:
        return False
    return True


def convert(image: Image.Image, *, max_pixels: int) -> Pixels:
    """Return the pixels of a picture that Pillow has opened, upright, in RGB, over white.

    Args:
        image: the file of one that is not loaded yet is read as `decode` would, and the picture
            stays as it is; one that is loaded is taken as it lies in memory.
        max_pixels: more are refused.

    Returns:
        uint8 (H, W, 3).

    Raises:
        BadPicture: as `decode`.
    """
    with _reading():
        content = _unread(image)
    if content is not None:
        return decode(content, max_pixels=max_pixels)
    # a TIFF is turned by Pillow when it is loaded, and forgets its tag; other formats keep theirs
    with _reading():
        return _pixels(image, max_pixels, _as_pillow_says)


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


def _decode_jpeg(content: bytes, max_pixels: int, min_side: int) -> Pixels:
    head = jpeg.header(content)
    check_sides(head.width, head.height, max_pixels=max_pixels)
    jpeg.check_scans(content, head)
    orientation = exif.orientation(head.exif, head.xmp)
    pixels = jpeg.decode(content, head, min_side=min_side)
    if pixels is None:
        return _decode(jpeg.bare(content, head), "JPEG", max_pixels, lambda image: orientation)
    if pixels.shape[2] == 4:
        height, width, _ = pixels.shape
        ink = np.subtract(255, pixels, out=pixels)
        image = Image.frombuffer("CMYK", (width, height), ink, "raw", "CMYK", 0, 1)
        return to_rgb(image, orientation)
    return np.ascontiguousarray(exif.upright(pixels, orientation))


def _decode(
    content: bytes, kind: str, max_pixels: int, orientation: Callable[[Image.Image], int]
) -> Pixels:
    opened = _PLUGINS[kind](io.BytesIO(content))
    image = _first_of_webp(opened) if kind == "WEBP" else opened
    pixels = _pixels(image, max_pixels, orientation)
    if kind == "PNG" and _ends_in_black(image) and not headers.is_whole_png(content):
        raise BadPicture("damaged picture (PNG whose data ends before its last row)")
    return pixels


def _ends_in_black(image: Image.Image) -> bool:
    """Return whether one of the last two rows is nothing but zeros: interlacing parts them."""
    rows = range(max(0, image.height - 2), image.height)
    return any(
        image.crop((0, y, image.width, y + 1)).getbbox(alpha_only=False) is None for y in rows
    )


def _pixels(
    image: Image.Image, max_pixels: int, orientation: Callable[[Image.Image], int]
) -> Pixels:
    """Load a picture; how it was held is asked after that, since its text may come last."""
    check_sides(*image.size, max_pixels=max_pixels)
    _amend(image)
    left, top, right, bottom = _frame(image)
    image.load()
    held = orientation(image)
    pixels = to_rgb(image, held)
    if image.format == "GIF":
        stored = exif.as_stored(pixels, held)
        for beyond in (np.s_[:top], np.s_[bottom:], np.s_[:, :left], np.s_[:, right:]):
            stored[beyond] = 255  # nothing is there, where Pillow puts the first colour
    return pixels


def _unread(image: Image.Image) -> bytes | None:
    """Return the file of a picture that was opened and no more: not loaded, nor moved on."""
    if not (isinstance(image, ImageFile.ImageFile) and image.tile and image.fp):
        return None
    if image.format not in (*headers.FORMATS, "MPO") or image.tell() or image.decoderconfig:
        return None
    place = image.fp.tell()  # a PNG goes on from there
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)
    return content


def _frame(image: Image.Image) -> tuple[int, int, int, int]:
    """Return what the first frame covers of a canvas."""
    tiles = getattr(image, "tile", None)
    return tiles[0].extents if image.format == "GIF" and tiles else (0, 0, *image.size)


def _amend(image: Image.Image) -> None:
    """Mend, before a picture is loaded, what Pillow would get wrong in silence."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return
    raw = tiles[0].args if isinstance(tiles[0].args, str) else tiles[0].args[0]
    clear = image.info.get("transparency")
    if image.format == "PNG" and clear is not None:
        if raw in _PNG_STEPS:  # the sample as stored, where pixels are scaled to 0..255
            image.info["transparency"] = clear * _PNG_STEPS[raw]
        elif raw == "RGB;16B":  # of which Pillow keeps the upper halves alone
            raise BadPicture("PNG of 16-bit colours, one of them transparent; use an alpha channel")
    elif tiles[0].codec_name == "libtiff" and sys.byteorder == "little":
        # libtiff has brought these into the machine's order already
        swapped = (_NATIVE.get(raw, raw), *tiles[0].args[1:])
        image.tile = [tiles[0]._replace(args=swapped)]  # type: ignore[attr-defined]


def _first_of_webp(image: Image.Image) -> Image.Image:
    """Return the first frame of a WebP that was just opened, which is of no use after that.

    Pillow's own way holds two canvases for animation, and two copies of the frame beside them: 16
    bytes a pixel. Where its insides should change, that way is taken.
    """
    decoder = getattr(image, "_decoder", None)
    if decoder is None:
        return image
    frame = decoder.get_next()
    if frame is None:
        raise BadPicture("damaged picture (WebP without a whole frame)")
    mode = "RGBX" if image.mode == "RGB" else image.mode
    first = Image.frombuffer(mode, image.size, frame[0], "raw", mode, 0, 1)
    first.info = image.info
    image._decoder = None  # type: ignore[attr-defined]
    return first


def _as_it_says(image: Image.Image) -> int:
    """Return the orientation of a file that was loaded."""
    info = image.info
    block = info.get("exif") or b""
    if not block and "Raw profile type exif" in info:
        digits = "".join(str(info["Raw profile type exif"]).split("\n")[3:])
        with suppress(ValueError):
            block = bytes.fromhex(digits)
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    return exif.orientation(block, xmp.encode() if isinstance(xmp, str) else xmp)


def _as_pillow_says(image: Image.Image) -> int:
    """Return the orientation of a picture in memory, which its owner may have changed."""
    try:
        value = image.getexif().get(exif.ORIENTATION, 1)
    except DAMAGED:
        return 1
    return value if isinstance(value, int) and value in range(1, 9) else 1


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise BadPicture(f"damaged picture ({text[:80]})") from None
