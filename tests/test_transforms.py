from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from raypose import synthesis
from raypose.errors import DataError
from raypose.transforms import decode, preprocess, shrink, to_square

MAX = 50_000_000


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header claims width × height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def photo(width: int = 90, height: int = 60) -> Image.Image:
    return synthesis.render(next(iter(synthesis.POSES)), seed=1, size=96).resize((width, height))


@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(90, 60), (61, 97), (32, 32), (20, 200), (17, 16)])
def test_same_pixels_as_open_clip(resize: str, size: tuple[int, int]) -> None:
    image = photo(*size)
    cfg = PreprocessCfg(
        size=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode=resize
    )
    theirs = image_transform_v2(cfg, is_train=False)(image)
    ours = np.asarray(to_square(image, 32, resize=resize))  # type: ignore[arg-type]
    np.testing.assert_array_equal(ours, (theirs.numpy().transpose(1, 2, 0) * 255).round())
    assert open_clip.__version__


def test_bytes_to_array() -> None:
    pixels = preprocess(encoded(photo()), size=24, resize="squash", max_pixels=MAX)
    assert pixels.shape == (3, 24, 24)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = photo()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that EXIF asks to undo
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, "PNG", exif=exif), max_pixels=MAX)
    assert image.size == upright.size
    np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_formats_and_modes_become_rgb(kind: str, mode: str) -> None:
    image = photo().convert(mode)
    content = encoded(image.convert("RGB") if (kind, mode) in {("JPEG", "P")} else image, kind)
    assert decode(content, max_pixels=MAX).mode == "RGB"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture in a known format"),
        (b"<html><body>404</body></html>", "not a picture in a known format"),
        (encoded(photo())[:900], "damaged picture"),
        (encoded(photo(), "PNG")[:900], "damaged picture"),
        (bomb(12_000, 12_000), "header claims 144 megapixels where 50 are allowed"),
        (bomb(8_000, 8_000), "header claims 64 megapixels where 50 are allowed"),
        (bomb(60_000, 60_000), "header claims 3600 megapixels where 50 are allowed"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a known format"),
    ],
)
def test_bad_bytes_get_a_reason(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(content, max_pixels=MAX)


def test_shrink_keeps_shape_and_small_pictures() -> None:
    small = decode(shrink(photo(90, 60), max_side=30), max_pixels=MAX)
    assert small.size == (30, 20)
    assert decode(shrink(photo(20, 10), max_side=30), max_pixels=MAX).size == (20, 10)


def test_real_photographs_decode(shared: Path) -> None:
    folder = sorted((shared / "data/yoga66/val").iterdir())[0]
    for path in sorted(folder.iterdir())[:5]:
        assert decode(path.read_bytes(), max_pixels=MAX).size[0] > 32
