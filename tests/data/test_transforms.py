from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageDraw, ImageOps
from support.pictures import bomb, encoded, photo

from raypose.data.images import decode, encode, shrink
from raypose.data.transforms import preprocess, to_square
from raypose.errors import DataError

MAX = 25_000_000


@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(90, 60), (61, 97), (32, 32), (20, 200), (17, 16)])
def test_pixels_of_open_clip_within_a_level(resize: str, size: tuple[int, int]) -> None:
    image = photo(*size)
    cfg = PreprocessCfg(
        size=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode=resize
    )
    theirs = (image_transform_v2(cfg, is_train=False)(image).numpy() * 255).round().astype(int)
    ours = to_square(np.array(image), 32, resize=resize)  # type: ignore[arg-type]
    assert np.abs(theirs - ours).max() <= 1


def drawing(*, at: tuple[int, int], ground: int = 0, side: int = 120) -> np.ndarray:  # type: ignore[type-arg]
    """A figure of two lines somewhere on a ground of one colour."""
    image = Image.new("RGB", (side, side), (ground,) * 3)
    draw = ImageDraw.Draw(image)
    for ends in ((0, 0, 0, 40), (0, 40, 30, 40)):
        draw.line(
            [(x + at[0], y + at[1]) for x, y in zip(ends[::2], ends[1::2], strict=True)],
            (200, 90, 40),
            3,
        )
    return np.array(image)


@pytest.mark.parametrize("ground", [0, 255])
def test_a_margin_of_one_colour_is_trimmed(ground: int) -> None:
    """Wherever a figure is, and however large its picture, it looks alike; lines stay."""
    one, two = (
        to_square(drawing(at=at, ground=ground, side=side), 48, resize="trim")
        for at, side in (((5, 7), 120), ((100, 140), 300))
    )
    np.testing.assert_array_equal(one, two)
    seen = np.abs(one.astype(int) - ground).max(axis=0) > 64
    assert seen.any(axis=1).sum() > 40  # it fills the square
    assert seen.any(axis=0).sum() > 30
    assert (one[:, 0] == ground).all()  # with air around


@pytest.mark.parametrize("room", [0, 2, 20])
def test_what_is_padded_has_the_colour_of_the_rim(room: int) -> None:
    """Whether or not there was anything to cut away."""
    paper = np.full((40 + 2 * room, 100 + 2 * room, 3), 255, dtype=np.uint8)
    paper[room + 5 : room + 35, room + 2 : room + 98] = (30, 60, 90)
    assert (to_square(paper, 48, resize="trim")[:, 0] == 255).all()


def test_trimming_passes_over_the_specks_of_compression() -> None:
    clean = drawing(at=(30, 50))
    content = encoded(Image.fromarray(clean), quality=60)
    trimmed = preprocess(content, size=48, resize="trim", max_pixels=MAX)
    assert (trimmed.max(axis=0) > 64).any(axis=1).sum() > 36  # it fills the square still
    scaled = preprocess(content, size=48, resize="trim", max_pixels=MAX, dct_scaled=True)
    np.testing.assert_array_equal(scaled, trimmed)  # of a small figure nothing is thrown away


@pytest.mark.parametrize("size", [(90, 60), (61, 97), (20, 200), (1, 1)])
def test_what_has_no_margin_is_padded(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    ours = to_square(pixels, 32, resize="trim")
    np.testing.assert_array_equal(ours, to_square(pixels, 32, resize="longest"))
    plain = np.full((size[1], size[0], 3), 7, dtype=np.uint8)  # is nothing but margin
    assert set(np.unique(to_square(plain, 32, resize="trim"))) <= {0, 7}


def pillow(content: bytes, side: int) -> np.ndarray:  # type: ignore[type-arg]
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=int)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"quality": 60}, {"progressive": True}, {"subsampling": 0}])
def test_pixels_of_pillow_within_a_level(mode: str, options: dict[str, object]) -> None:
    content = encoded(photo(301, 203).convert(mode), **options)
    ours = preprocess(content, size=64, resize="squash", max_pixels=MAX).transpose(1, 2, 0)
    assert np.abs(pillow(content, 64) - ours).max() <= 1


def test_scaled_decoding_loses_little_and_never_scales_up() -> None:
    content = encoded(photo(640, 480), quality=90)
    exact = preprocess(content, size=96, resize="squash", max_pixels=MAX).astype(float)
    scaled = preprocess(content, size=96, resize="squash", max_pixels=MAX, dct_scaled=True)
    assert 10 * np.log10(255**2 / np.square(exact - scaled).mean()) > 42
    assert (exact != scaled).any()
    small = encoded(photo(40, 30))
    same = [
        preprocess(small, size=96, resize="squash", max_pixels=MAX, dct_scaled=scaled)
        for scaled in (True, False)
    ]
    np.testing.assert_array_equal(*same)


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
    np.testing.assert_array_equal(image, np.asarray(upright))
    content = encoded(stored, exif=exif)
    pillows = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.abs(decode(content, max_pixels=MAX).astype(int) - np.asarray(pillows)).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_formats_and_modes_become_rgb(kind: str, mode: str) -> None:
    image = photo().convert(mode)
    content = encoded(image.convert("RGB") if (kind, mode) in {("JPEG", "P")} else image, kind)
    pixels = decode(content, max_pixels=MAX)
    assert pixels.shape == (60, 90, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture in a known format"),
        (b"<html><body>404</body></html>", "not a picture in a known format"),
        (encoded(photo())[:900], "damaged picture"),
        (encoded(photo(), "PNG")[:900], "damaged picture"),
        (bomb(12_000, 12_000), "header claims 144 megapixels where 25 are allowed"),
        (bomb(8_000, 8_000), "header claims 64 megapixels where 25 are allowed"),
        (bomb(60_000, 60_000), "header claims 3600 megapixels where 25 are allowed"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a known format"),
    ],
)
def test_bad_bytes_get_a_reason(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(content, max_pixels=MAX)


def test_shrink_keeps_shape_and_small_pictures() -> None:
    pixels = np.array(photo(90, 60))
    assert shrink(pixels, max_side=30).shape == (20, 30, 3)
    assert shrink(pixels, max_side=90) is pixels
    again = decode(encode(shrink(pixels, max_side=30)), max_pixels=MAX)
    assert again.shape == (20, 30, 3)


def test_real_photographs_decode(shared: Path) -> None:
    folder = sorted((shared / "data/yoga66/val").iterdir())[0]
    for path in sorted(folder.iterdir())[:5]:
        assert decode(path.read_bytes(), max_pixels=MAX).shape[0] > 32
