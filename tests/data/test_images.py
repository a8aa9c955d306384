"""Every format, mode and orientation comes out upright, in its own tones; all else is refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from raypose.config import MAX_PIXELS
from raypose.data import images
from raypose.data.transforms import Resize, preprocess
from raypose.errors import BadPicture

ORIENTATION = 0x0112
WIDTH, HEIGHT = 48, 32
Pixels = npt.NDArray[np.uint8]


def scene() -> Pixels:
    """Four quarters and a ramp: no two turns of it look alike."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:16, :24] = (200, 40, 40)
    pixels[:16, 24:] = (40, 200, 40)
    pixels[16:, :24] = (40, 40, 200)
    pixels[16:, 24:] = np.linspace(60, 250, 24).astype(np.uint8)[None, :, None]
    return pixels


def stored(pixels: Pixels, orientation: int) -> Image.Image:
    """What a camera stores of an upright picture with a tag: the tag's turn undone."""
    image = Image.fromarray(pixels)
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    for turn in undo:
        image = image.transpose(Image.Transpose(turn))
    return image


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("RGBA", "LA"):
        image = image.convert(mode[:-1])
        image.putalpha(255)
        return image
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return Image.fromarray(grey)
    if mode == "I":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    return image.convert(mode)


def wanted(mode: str) -> Pixels:
    image = Image.fromarray(scene())
    if mode in ("L", "LA", "I;16", "I", "F"):
        image = image.convert("L")
    if mode in ("1", "P", "CMYK"):
        image = image.convert(mode)
    return np.asarray(image.convert("RGB"))


MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
}
TAGGED = ("JPEG", "PNG", "WEBP", "TIFF")
LOSSY = {"JPEG": 12, "GIF": 1}
CASES = [
    (kind, mode, turn)
    for kind, modes in MODES.items()
    for mode in modes
    for turn in (range(1, 9) if kind in TAGGED else (1,))
]


def saved(image: Image.Image, kind: str, orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    how: dict[str, object] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    how |= {"lossless": True} if kind == "WEBP" else {}
    if kind == "TIFF":
        how["tiffinfo"] = {ORIENTATION: orientation}
    elif kind in TAGGED and orientation != 1:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        how["exif"] = exif
    image.save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "mode", "turn"), CASES)
def test_every_format_mode_and_orientation(kind: str, mode: str, turn: int) -> None:
    content = saved(in_mode(stored(scene(), turn), mode), kind, turn)
    expected = wanted(mode).astype(int)
    found = images.decode(content, max_pixels=MAX_PIXELS)
    assert found.shape == expected.shape
    limit = LOSSY.get(kind, 0)
    if mode == "1":  # dithered after it was turned
        assert abs(found.mean() - expected.mean()) < 12
        return
    if mode in ("P", "CMYK") or (kind, mode) == ("GIF", "RGB"):  # of few colours
        assert np.abs(found.astype(int) - scene()).mean() < 30
        return
    assert np.abs(found.astype(int) - expected).max() <= limit


@pytest.mark.parametrize(("kind", "mode", "turn"), CASES)
def test_pictures_of_pillow_come_out_the_same(kind: str, mode: str, turn: int) -> None:
    """Opened, loaded, copied or turned by their owner: by every door the same picture."""
    content = saved(in_mode(stored(scene(), turn), mode), kind, turn)
    expected = images.decode(content, max_pixels=MAX_PIXELS).astype(int)
    for prepare in (lambda image: image, _loaded, ImageOps.exif_transpose):
        image = prepare(Image.open(io.BytesIO(content)))
        found = images.convert(image, max_pixels=MAX_PIXELS).astype(int)
        assert np.abs(found - expected).max() <= (2 if kind == "JPEG" else 0)


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    return image


@pytest.mark.parametrize("tag", [0, 9, 65535])
def test_orientations_that_mean_nothing_leave_a_picture(tag: int) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        found = images.decode(saved(Image.fromarray(scene()), kind, tag), max_pixels=MAX_PIXELS)
        assert np.abs(found.astype(int) - scene()).max() <= LOSSY.get(kind, 0)


@pytest.mark.parametrize("block", [b"Exif\0\0no tiff here", b"\0" * 30, b"MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_unreadable_exif_block_is_no_damage(kind: str, block: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(
        buffer, kind, exif=block, **({"lossless": True} if kind == "WEBP" else {})
    )
    found = images.decode(buffer.getvalue(), max_pixels=MAX_PIXELS)
    assert np.abs(found.astype(int) - scene()).mean() < 12


def transparent(kind: str, mode: str) -> bytes:
    """Black everywhere, and transparent in its left half."""
    buffer = io.BytesIO()
    if mode in ("RGBA", "LA"):
        image = Image.new(mode, (WIDTH, HEIGHT))
        alpha = Image.new("L", (WIDTH, HEIGHT), 255)
        alpha.paste(0, (0, 0, WIDTH // 2, HEIGHT))
        image.putalpha(alpha)
        image.save(buffer, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        return buffer.getvalue()
    image = Image.new(mode, (WIDTH, HEIGHT), 0)
    hole = {"P": 7, "L": 7, "RGB": (7, 7, 7), "I;16": 7}[mode]
    if mode == "P":
        image.putpalette([0] * 768)
    if mode == "I;16":
        grey = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
        grey[:, : WIDTH // 2] = 7
        image = Image.fromarray(grey)
    else:
        image.paste(hole, (0, 0, WIDTH // 2, HEIGHT))
    image.save(buffer, kind, transparency=hole)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "L"), ("PNG", "RGB"), ("PNG", "I;16"),
     ("WEBP", "RGBA"), ("GIF", "P"), ("TIFF", "RGBA"), ("TIFF", "LA")],
)  # fmt: skip
def test_what_is_transparent_lies_over_white(kind: str, mode: str) -> None:
    found = images.decode(transparent(kind, mode), max_pixels=MAX_PIXELS)
    assert (found[:, : WIDTH // 2] == 255).all()
    assert (found[:, WIDTH // 2 :] == 0).all()


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_fractions_go_by_the_range_that_holds_them(top: float) -> None:
    grey = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
    found = images.decode(saved(Image.fromarray(grey), "TIFF"), max_pixels=MAX_PIXELS)
    assert np.abs(found[:, :, 0].ravel() - np.linspace(0, 255, 64)).max() <= 0.51


def noisy(size: tuple[int, int] = (300, 200), **how: object) -> bytes:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize(size)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    "harm",
    [
        lambda c: c[: len(c) // 2 - 400] + bytes(800) + c[len(c) // 2 + 400 :],
        lambda c: c[: len(c) // 2],
        lambda c: c[: len(c) // 2] + c[-2:],
        lambda c: c[: len(c) // 2] + c[len(c) // 2 + 300 :],
    ],
    ids=["zeroed", "cut", "cut and closed", "a hole"],
)
def test_a_jpeg_of_which_a_part_is_lost_is_refused(
    harm: Callable[[bytes], bytes], progressive: bool
) -> None:
    content = noisy(progressive=progressive)
    images.decode(content + b"trailing", max_pixels=MAX_PIXELS)
    with pytest.raises(BadPicture, match="damaged picture"):
        images.decode(harm(content), max_pixels=MAX_PIXELS)


def with_scans(count: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    content = noisy(size, progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + b"\xff\xd9"


def test_scans_are_bounded() -> None:
    images.decode(noisy(progressive=True), max_pixels=MAX_PIXELS)
    with pytest.raises(BadPicture, match="scans or more where 32 are allowed"):
        images.decode(with_scans(5000), max_pixels=MAX_PIXELS)


def bomb(width: int, height: int) -> bytes:
    """A PNG of one colour: some bytes for many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("resize", ["squash", "shortest", "longest"])
@pytest.mark.parametrize(
    "content",
    [bomb(8000, 1), bomb(1, 5_000_000), bomb(1, 60_000), noisy((12_000, 1)), noisy((1, 12_000))],
    ids=["wide", "very tall", "tall", "jpeg wide", "jpeg tall"],
)
def test_strips_are_refused(content: bytes, resize: Resize) -> None:
    with pytest.raises(BadPicture, match="a strip of"):
        preprocess(content, size=224, resize=resize, max_pixels=MAX_PIXELS)


def test_panoramas_are_pictures() -> None:
    for size in ((4000, 200), (200, 4000)):
        made = preprocess(noisy(size), size=64, resize="shortest", max_pixels=MAX_PIXELS)
        assert made.shape == (3, 64, 64)


def test_a_canvas_counts_too() -> None:
    content = bytearray(saved(Image.new("RGBA", (8, 8)), "WEBP"))
    if content[12:16] != b"VP8X":
        frame = bytes(content[12:])
        head = b"VP8X" + struct.pack("<I", 10) + bytes([16, 0, 0, 0]) + bytes(6)
        content = bytearray(
            b"RIFF" + struct.pack("<I", len(head) + len(frame) + 4) + b"WEBP" + head + frame
        )
    content[24:30] = (16382).to_bytes(3, "little") * 2
    with pytest.raises(BadPicture, match="268 megapixels"):
        images.decode(bytes(content), max_pixels=MAX_PIXELS)


COSTLY = """
import resource, sys
from pathlib import Path
from raypose.data.transforms import preprocess
small = Path(sys.argv[2]).read_bytes()
preprocess(small, size=224, resize=sys.argv[3], max_pixels=25_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
preprocess(Path(sys.argv[1]).read_bytes(), size=224, resize=sys.argv[3], max_pixels=25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("resize", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16"])
def test_memory_grows_with_pixels_alone(tmp_path: Path, mode: str, resize: str) -> None:
    size = (5000, 5000)
    large = Image.new("L", size) if mode == "I;16" else Image.new(mode, size)
    large = large.convert("I").convert("I;16") if mode == "I;16" else large
    for name, image in (("large", large), ("small", large.resize((64, 64)))):
        image.save(tmp_path / name, "PNG", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", COSTLY, tmp_path / "large", tmp_path / "small", resize],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) * 1024 < 400e6, f"{int(done.stdout) / 1e3:.0f} MB"


@pytest.mark.parametrize("kind", MODES)
def test_whatever_comes_is_a_picture_or_a_bad_one(kind: str) -> None:
    """Bytes changed at random end in pixels or in BadPicture, and in nothing else."""
    rng = np.random.default_rng(7)
    whole = saved(Image.fromarray(scene()), kind)
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), rng.integers(1, 12)):
            content[place] = rng.integers(0, 256)
        cut = bytes(content[: rng.integers(1, len(content) + 1)])
        for given in (bytes(content), cut):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found = images.decode(given, max_pixels=1_000_000)
                except BadPicture as error:
                    assert "\n" not in str(error)  # noqa: PT017
                else:
                    assert found.dtype == np.uint8
                    assert found.ndim == 3
