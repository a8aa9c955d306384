"""Every format, mode and orientation that is admitted comes out upright, in its own tones."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms, ImageOps
from support.pictures import chunk, directory, encoded, png, tiff

from raypose.data.images import convert, decode
from raypose.errors import BadPicture

MAX = 25_000_000
ORIENTATION = 0x0112
HIGH, WIDE = 40, 60
STORED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""The transposition that gives what an orientation asks to undo."""


def scene() -> Image.Image:
    """No two corners alike, nor two edges; smooth, so that lossy formats keep it."""
    across, down = np.meshgrid(np.linspace(0, 1, WIDE), np.linspace(0, 1, HIGH))
    colors = np.stack([255 * across, 255 * down, 255 * (1 - across) * down], axis=-1)
    return Image.fromarray(colors.round().astype(np.uint8))


def with_alpha() -> Image.Image:
    """The scene, half of it transparent by degrees; in the clear part the colours are black."""
    image = scene().convert("RGBA")
    alpha = np.tile(np.linspace(0, 255, WIDE).round().astype(np.uint8), (HIGH, 1))
    pixels = np.asarray(image).copy()
    pixels[:, :, 3] = alpha
    pixels[alpha == 0] = 0
    return Image.fromarray(pixels)


def clear_index() -> Image.Image:
    """A palette, one of whose colours is transparent."""
    image = scene().quantize(16)
    image.info["transparency"] = 3
    return image


def clear_grey() -> Image.Image:
    image = scene().convert("L")
    image.info["transparency"] = int(np.asarray(image)[20, 30])
    return image


def clear_color() -> Image.Image:
    image = Image.fromarray(np.asarray(scene()) // 64 * 64)
    image.info["transparency"] = tuple(np.asarray(image)[20, 30].tolist())
    return image


def lab() -> Image.Image:
    rgb, profile = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(rgb, profile, "RGB", "LAB")
    made = ImageCms.applyTransform(scene(), transform)
    assert made is not None
    return made


def ramp(top: float, kind: str) -> Image.Image:
    """A grey ramp from 0 to some value."""
    return Image.fromarray((np.asarray(scene())[:, :, 0] / 255 * top).astype(kind))


MODES: dict[str, Callable[[], Image.Image]] = {
    "1": lambda: scene().convert("1"),
    "L": lambda: scene().convert("L"),
    "LA": lambda: with_alpha().convert("LA"),
    "P": lambda: scene().quantize(64),
    "PA": lambda: scene().quantize(64).convert("PA"),
    "RGB": scene,
    "RGBA": with_alpha,
    "CMYK": lambda: scene().convert("CMYK"),
    "YCbCr": lambda: scene().convert("YCbCr"),
    "LAB": lab,
    "I;16": lambda: ramp(65535, "<u2"),
    "I;16B": lambda: ramp(65535, ">u2"),
    "I": lambda: ramp(65535, "i4"),
    "F": lambda: ramp(1, "f4"),
    "clear index": clear_index,
    "clear grey": clear_grey,
    "clear color": clear_color,
}
EXACT: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 98, "subsampling": 0},
    "WEBP": {"lossless": True},
}
ADMITTED = {
    "JPEG": ["1", "L", "RGB", "CMYK", "YCbCr"],
    "PNG": [m for m in MODES if m not in ("PA", "CMYK", "YCbCr", "LAB", "I", "F")],
    "WEBP": ["1", "L", "LA", "P", "RGB", "RGBA", "clear index"],
    "BMP": ["1", "L", "P", "RGB"],
    "GIF": ["1", "L", "P", "clear index"],
    "TIFF": [m for m in MODES if not m.startswith("clear")],
}


def expected(mode: str) -> npt.NDArray[np.int_]:
    """What a mode holds, worked out without the decoder."""
    image = MODES[mode]()
    if mode in ("I", "I;16", "I;16B", "F"):
        values = np.asarray(image).astype(float)
        grey = values * 255 / (1 if mode == "F" else 65535)
        return np.repeat(grey.round()[:, :, None], 3, axis=2).astype(int)
    if mode in ("LA", "PA", "RGBA") or mode.startswith("clear"):
        rgba = np.asarray(image.convert("RGBA")).astype(float)
        alpha = rgba[:, :, 3:] / 255
        return (rgba[:, :, :3] * alpha + 255 * (1 - alpha)).round().astype(int)
    return np.asarray(image.convert("RGB")).astype(int)


def stored(mode: str, kind: str, orientation: int) -> bytes:
    image = MODES[mode]()
    info = dict(image.info)
    if orientation in STORED:
        image = image.transpose(Image.Transpose(STORED[orientation]))
    options: dict[str, Any] = dict(EXACT.get(kind, {}))
    if "transparency" in info:
        options["transparency"] = info["transparency"]
        image.info |= info
    if orientation > 1:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    return encoded(image, kind, **options)


CASES = [
    (kind, mode, orientation)
    for kind, modes in ADMITTED.items()
    for mode in modes
    for orientation in (range(1, 2) if kind in ("BMP", "GIF") else range(1, 9))
]


@pytest.mark.parametrize(("kind", "mode", "orientation"), CASES)
def test_every_format_mode_and_orientation(kind: str, mode: str, orientation: int) -> None:
    content = stored(mode, kind, orientation)
    wanted = expected(mode)
    doors = {"bytes": decode(content, max_pixels=MAX)}
    with Image.open(io.BytesIO(content)) as image:
        doors["opened"] = convert(image, max_pixels=MAX)
        image.load()
        doors["loaded"] = convert(image, max_pixels=MAX)
        if kind != "BMP":
            turned = ImageOps.exif_transpose(image)
            doors["turned"] = convert(turned, max_pixels=MAX)
    loss = 12 if kind == "JPEG" and mode != "1" else 40 if kind == "JPEG" else 2
    for door, found in doors.items():
        assert found.shape == wanted.shape, door
        assert np.abs(found - wanted).max() <= loss, door
    np.testing.assert_array_equal(doors["bytes"], doors["opened"])


@pytest.mark.parametrize("values", [(3, [0]), (3, [9]), (2, list(b"six\0")), (3, [6, 6]), (3, [])])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_that_makes_no_sense_is_none(
    kind: str, values: tuple[int, list[int]]
) -> None:
    upright = np.asarray(scene())
    if kind == "TIFF":
        content = tiff(upright, photometric=2, tags={ORIENTATION: values})
    else:
        block = b"Exif\0\0" + directory({ORIENTATION: values})
        content = encoded(scene(), kind, exif=block, **EXACT.get(kind, {}))
    assert np.abs(decode(content, max_pixels=MAX).astype(int) - upright).max() <= 12


@pytest.mark.parametrize(
    "block", [b"garbage!!", b"", b"II*\0", b"Exif\0\0", b"MM\0*\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_an_unreadable_exif_block_says_nothing_of_the_pixels(
    mode: str, kind: str, block: bytes
) -> None:
    image = scene().convert(mode if kind == "JPEG" else "RGB")
    plain = encoded(image, kind)
    content = encoded(image, kind, exif=b"Exif\0\0" + block)
    doors = [decode(content, max_pixels=MAX), decode(plain, max_pixels=MAX)]
    np.testing.assert_array_equal(*doors)


@pytest.mark.parametrize("text", ['tiff:Orientation="6"', "<tiff:Orientation>6</tiff:Orientation>"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_alone_counts(kind: str, text: str) -> None:
    content = encoded(scene(), kind, xmp=text.encode()) if kind != "PNG" else with_itxt(text)
    assert decode(content, max_pixels=MAX).shape == (WIDE, HIGH, 3)
    block = directory({ORIENTATION: (3, [1])})
    if kind != "PNG":
        both = encoded(scene(), kind, xmp=text.encode(), exif=b"Exif\0\0" + block)
        assert decode(both, max_pixels=MAX).shape == (HIGH, WIDE, 3)


def with_itxt(text: str) -> bytes:
    content = encoded(scene(), "PNG")
    part = chunk((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text.encode()))
    return content[:33] + part + content[33:]


GREYS = [("u1", 255), ("u2", 65535), ("i2", 32767), ("u4", 2**32 - 1), ("i4", 2**31 - 1), ("f4", 1)]
WHITE_IS_ZERO = {("u1", "<"), ("u1", ">"), ("u2", "<")}
"""Of whole numbers, those that Pillow reads; the rest is refused."""


@pytest.mark.parametrize(("kind", "top"), GREYS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_of_any_width_keeps_its_tones_or_is_refused(
    kind: str, top: int, order: str, deflate: bool, photometric: int
) -> None:
    """Both orders of bytes, packed and not, black or white at zero: nothing changes in silence."""
    ramp = np.tile(np.linspace(0, 1, WIDE), (HIGH, 1))
    content = tiff((ramp * top).astype(kind), order=order, deflate=deflate, photometric=photometric)
    if (photometric == 0 and kind[0] in "iu" and (kind, order) not in WHITE_IS_ZERO) or (
        (kind, order) == ("u4", ">")
    ):
        with pytest.raises(BadPicture, match="unknown pixel mode"):
            decode(content, max_pixels=MAX)
        return
    wanted = (255 * (ramp if photometric else 1 - ramp)).round()[:, :, None]
    assert np.abs(decode(content, max_pixels=MAX) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([[0.0, 0.5], [0.75, 1.0]], "f4"), [0, 128, 191, 255]),
        (np.array([[0.0, 0.25], [0.25, 0.5]], "f4"), [0, 64, 64, 128]),
        (np.array([[0, 100], [200, 255]], "f4"), [0, 100, 200, 255]),
        (np.array([[-1, 0], [0.5, 1]], "f4"), [0, 128, 191, 255]),
        (np.array([[0, 100], [200, 255]], "i4"), [0, 100, 200, 255]),
        (np.array([[0, 257], [514, 60000]], "i4"), [0, 1, 2, 233]),
        (np.array([[-100, 0], [50, 100]], "i4"), [0, 128, 191, 255]),
        (np.array([[0, 0], [0, 10**6]], "i4"), [0, 0, 0, 255]),
        (np.array([[-32768, 0], [0, 32767]], "i2"), [0, 128, 128, 255]),
        (np.array([[7.0, 7.0], [7.0, 7.0]], "f4"), [7, 7, 7, 7]),
        (np.array([[-7, -7], [-7, -7]], "i4"), [0, 0, 0, 0]),
    ],
)
def test_rules_for_numbers_without_a_full_range(
    values: npt.NDArray[Any], wanted: list[int]
) -> None:
    found = decode(tiff(values), max_pixels=MAX)
    assert np.abs(found[:, :, 0].ravel().astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(wrong: float) -> None:
    values = np.array([[0, 1], [wrong, 0.5]], "f4")
    with pytest.raises(BadPicture, match="not finite"):
        decode(tiff(values), max_pixels=MAX)
    with pytest.raises(BadPicture, match="not finite"):
        convert(Image.fromarray(values), max_pixels=MAX)


def test_twelve_bits_have_a_range_of_their_own() -> None:
    packed = np.array([[0xFF, 0xFF, 0xFF, 0x80, 0x08, 0x00]], "u1")  # 4095 4095 2048 2048
    tags = {256: (4, [4]), 258: (3, [12])}
    found = decode(tiff(packed, tags=tags), max_pixels=MAX)  # type: ignore[arg-type]
    assert found[0, :, 0].tolist() == [255, 255, 128, 128]


def test_signed_bytes_are_refused() -> None:
    with pytest.raises(BadPicture, match="signed 8-bit"):
        decode(tiff(np.zeros((2, 2), "i1")), max_pixels=MAX)


@pytest.mark.parametrize(
    ("bits", "color", "row", "clear", "wanted"),
    [
        (1, 0, b"\x80", [1], [255, 0]),
        (1, 0, b"\x80", [0], [255, 255]),
        (2, 0, b"\x40", [1], [255, 0]),
        (2, 0, b"\x40", [2], [85, 0]),
        (4, 0, b"\x51", [5], [255, 17]),
        (8, 0, b"\x10\x20", [16], [255, 32]),
        (16, 0, b"\x10\x01\x10\x02", [0x1001], [255, 16]),
        (8, 2, b"\x01\x02\x03\x01\x02\x04", [1, 2, 3], [255, 1]),
        (8, 4, b"\x01\x00\x01\xff", [], [255, 1]),
        (16, 4, b"\x01\x01\x00\x00\x01\x01\xff\xff", [], [255, 1]),
        (16, 6, b"\1\1\1\1\1\1\x00\x00" + b"\1\1\1\1\1\1\xff\xff", [], [255, 1]),
        (16, 2, b"\xff\x00" * 3 + b"\x80\x00" * 3, [], [255, 128]),
    ],
)
def test_transparent_png_of_any_width_lies_over_white(
    bits: int, color: int, row: bytes, clear: list[int], wanted: list[int]
) -> None:
    chunks = [(b"tRNS", struct.pack(f">{len(clear)}H", *clear))] if clear else []
    content = png(2, 1, bits, color, b"\0" + row, chunks=chunks)
    assert decode(content, max_pixels=MAX)[0, :, 0].tolist() == wanted


def test_a_transparent_colour_of_which_half_is_lost_is_refused() -> None:
    chunks = [(b"tRNS", struct.pack(">3H", 1, 2, 3))]
    content = png(1, 1, 16, 2, b"\0" + bytes(6), chunks=chunks)
    with pytest.raises(BadPicture, match="use an alpha channel"):
        decode(content, max_pixels=MAX)


def test_palettes_with_many_alphas_lie_over_white() -> None:
    chunks = [(b"PLTE", bytes([0, 0, 0, 100, 100, 100, 9, 9, 9])), (b"tRNS", b"\x00\x80")]
    content = png(3, 1, 8, 3, b"\0\0\1\2", chunks=chunks)
    assert decode(content, max_pixels=MAX)[0, :, 0].tolist() == [255, 177, 9]


@pytest.mark.parametrize("kind", [1, 2])
def test_alpha_of_tiff_multiplied_in_or_not(kind: int) -> None:
    color = 64 if kind == 1 else 128
    values = np.array([[[color, color, color, 128], [0, 0, 0, 0]]], "u1")
    content = tiff(values, photometric=2, tags={338: (3, [kind])})
    found = decode(content, max_pixels=MAX)[0, :, 0].astype(int)
    assert np.abs(found - [191, 255]).max() <= 1


def test_the_fourth_byte_of_a_bmp_is_alpha_only_where_the_header_says_so() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 32, 0, 4, 0, 0, 0, 0)
    plain = b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + header + bytes([1, 2, 3, 0])
    assert decode(plain, max_pixels=MAX).tolist() == [[[3, 2, 1]]]
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    header = struct.pack("<IiiHHIIiiII", 108, 1, 1, 1, 32, 3, 4, 0, 0, 0, 0) + masks
    alpha = b"BM" + struct.pack("<IHHI", 126, 0, 0, 122) + header + bytes([1, 2, 3, 0])
    assert decode(alpha, max_pixels=MAX).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_of_several_pictures_counts(kind: str) -> None:
    first, second = (Image.new("RGB", (8, 6), color) for color in ("red", "blue"))
    content = encoded(first, kind, save_all=True, append_images=[second])
    found = decode(content, max_pixels=MAX)
    assert found.shape == (6, 8, 3)
    assert np.abs(found.astype(int) - [255, 0, 0]).max() <= 3


def test_a_frame_that_covers_part_of_a_gif_lies_on_white() -> None:
    small = bytearray(encoded(Image.new("P", (2, 1)), "GIF"))
    small[6:10] = struct.pack("<HH", 4, 3)
    at = small.index(b",") + 1
    small[at : at + 4] = struct.pack("<HH", 1, 1)
    found = decode(bytes(small), max_pixels=MAX)[:, :, 0]
    assert found.tolist() == [[255] * 4, [255, 0, 0, 255], [255] * 4]


def test_colours_of_cmyk_with_and_without_adobes_marker() -> None:
    content = encoded(scene().convert("CMYK"), quality=98)
    at = content.index(b"Adobe") - 4
    bare = content[:at] + content[at + 16 :]
    for some in (content, bare):
        with Image.open(io.BytesIO(some)) as image:
            theirs = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(decode(some, max_pixels=MAX) - theirs).max() <= 1


@pytest.mark.parametrize("sampling", [0x14, 0x42])
def test_jpeg_of_rare_sampling_is_read(sampling: int) -> None:
    """Of libjpeg-turbo's own interface, header and all, only some of them are known."""
    content = encoded(Image.new("RGB", (64, 64), (200, 100, 50)))
    at = content.index(b"\xff\xc0") + 11
    found = decode(content[:at] + bytes([sampling]) + content[at + 1 :], max_pixels=MAX)
    assert found.shape == (64, 64, 3)


@pytest.mark.parametrize(
    "segment",
    [b"\xff\xe2\x00\x16ICC_PROFILE\0\1\2bad...", b"\xff\xe0\x00\x10JFIF\0\x09" + bytes(8)],
)
def test_jpeg_with_a_broken_profile_or_of_a_later_version_is_read(segment: bytes) -> None:
    content = encoded(scene(), quality=98)
    end = 20  # of the segment that says JFIF
    other = content[:2] + segment + content[end if segment[1] == 0xE0 else 2 :]
    np.testing.assert_array_equal(decode(other, max_pixels=MAX), decode(content, max_pixels=MAX))
