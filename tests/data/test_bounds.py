"""Small files that ask for gigabytes or hours are refused before anything is made of them."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from support.pictures import bomb, directory, encoded, photo, png, scans, tiff

from raypose.data.images import convert, decode, is_cheap
from raypose.data.transforms import Resize, preprocess, to_square
from raypose.errors import BadPicture, DataError

MAX = 25_000_000
SMALL = 16 << 20
"""Bytes that Python may take over a file that is refused."""
DOT = b"\0\0\0\0\0" * 4
"""Rows of a grey PNG of 4 × 4."""


def gif(*, blocks: int, size: int, comments: int = 1) -> bytes:
    content = encoded(Image.new("P", (4, 4)), "GIF")
    at = 13 + (6 << (content[10] & 7) if content[10] & 0x80 else 0)
    comment = b"!\xfe" + (bytes([size]) + b"x" * size) * blocks + b"\0"
    return content[:at] + comment * comments + content[at:]


def overlapping(num: int, size: int) -> bytes:
    """A directory whose tags all claim the same bytes."""
    entries = b"".join(struct.pack("<HHII", 1000 + k, 7, size, 0) for k in range(num))
    whole = b"II*\0\x08\0\0\0" + struct.pack("<H", num) + entries + bytes(4)
    return whole.ljust(size, b"\0")


def tiles(width: int, height: int, *, tile: tuple[int, int], num: int) -> bytes:
    told = {256: width, 257: height, 277: 1, 322: tile[0], 323: tile[1]}
    tags: dict[int, tuple[int, list[int]]] = {key: (4, [value]) for key, value in told.items()}
    tags |= {258: (3, [8]), 259: (3, [1]), 262: (3, [1])}
    tags |= {324: (4, [8] * num), 325: (4, [1] * num)}
    return directory(tags, data=bytes(16))


def runs(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + data


def canvas(width: int, height: int) -> bytes:
    """An animated WebP that claims a canvas and holds no frame."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = b"VP8X\x0a\0\0\0\x02\0\0\0" + sides + b"ANIM\x06\0\0\0" + bytes(6)
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


SEGMENTS = b"\xff\xfe\0\x02" * 20_000
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "scans": (lambda: scans(100_000), "scans or more where 32 are allowed"),
    "data in scans": (
        lambda: scans(1)[:-2] + bytes(17 << 20) + b"\xff\xd9",
        "bytes in several scans where 16777216 are allowed",
    ),
    "profiles": (
        lambda: png(4, 4, 8, 0, DOT, chunks=[(b"iCCP", b"a\0\0" + zlib.compress(b"x"))] * 20),
        "17 colour profiles or more where 16",
    ),
    "segments": (lambda: b"\xff\xd8" + SEGMENTS + encoded(photo())[2:], "segments where 10000"),
    "segments between scans": (
        lambda: scans(0)[:-2] + SEGMENTS + b"\xff\xda" * 70 + b"\xff\xd9",
        "segments or more where 10000",
    ),
    "chunks": (lambda: png(4, 4, 8, 0, DOT, chunks=[(b"tEXt", b"")] * 70_000), "chunks or more"),
    "data chunks": (lambda: png(4, 4, 8, 0, chunks=[(b"IDAT", b"")] * 70_000), "chunks or more"),
    "text": (
        lambda: png(4, 4, 8, 0, DOT, chunks=[(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26)))]),
        "too large",
    ),
    "profile": (
        lambda: png(4, 4, 8, 0, DOT, chunks=[(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26)))]),
        "too large",
    ),
    "blocks": (lambda: gif(blocks=100_000, size=1), "blocks or more"),
    "empty comments": (lambda: gif(blocks=0, size=0, comments=100_000), "blocks or more"),
    "tags": (lambda: overlapping(5000, 1 << 20), "without pixels"),
    "tags of a picture": (
        lambda: tiff(np.zeros((4, 4), "u1"), tags={270: (2, [0] * 9)}).replace(
            struct.pack("<HHI", 270, 2, 9), struct.pack("<HHI", 270, 2, 1 << 30)
        ),
        "bytes in tags",
    ),
    "strips": (
        lambda: tiff(np.zeros((4, 4), "u1"), tags={273: (4, [8] * 70_000)}),
        "file of 70000 strips or tiles where 65536 are allowed",
    ),
    "tiles": (lambda: tiles(400, 400, tile=(1, 1), num=160_000), "strips or tiles where"),
    "tile": (lambda: tiles(64, 64, tile=(30_000, 20_000), num=1), "600000000 pixels in a tile"),
    "runs": (lambda: runs(4000, 4000, b"\1\1" * 600_000), "bytes of run-length BMP"),
    "canvas": (lambda: canvas(16_384, 16_384), "header claims 268 megapixels where 25"),
    "strip": (lambda: png(1, 1_000_000, 8, 0, bytes(2_000_000)), "strip of 1 × 1000000 pixels"),
    "sides of nothing": (lambda: bomb(0, 5), "picture without pixels: 0 × 5"),
    "height of nothing": (lambda: bomb(5, 0), "picture without pixels: 5 × 0"),
    "gif": (lambda: b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b";", "3600 mega"),
    "bmp": (lambda: runs(60_000, -60_000, b""), "header claims 3600 megapixels"),
    "jpeg": (
        lambda: b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\1\1\x11\0\xff\xda\0\x02",
        "header claims 4295 megapixels",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_small_files_that_cost_much_are_refused_cheaply(what: str) -> None:
    make, message = REFUSED[what]
    content = make()
    tracemalloc.start()
    try:
        with pytest.raises(BadPicture, match=message) as caught:
            decode(content, max_pixels=MAX)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < SMALL


def test_fill_bytes_are_stepped_over_at_once() -> None:
    """As many as one likes are legal before a marker; each cost a line of Python."""
    content, lines = encoded(photo()), 0

    def traced(*_: Any) -> Any:
        nonlocal lines
        lines += 1
        return traced

    filled = content[:2] + b"\xff" * (1 << 16) + content[2:]
    before = sys.gettrace()
    sys.settrace(traced)
    try:
        cheap = is_cheap(filled)
    finally:
        sys.settrace(before)
    assert cheap
    assert lines < 1000
    assert (decode(filled, max_pixels=MAX) == decode(content, max_pixels=MAX)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_whose_tags_share_their_bytes_is_passed_over_cheaply(kind: str) -> None:
    block = overlapping(2000, 60_000)
    content = encoded(photo(), kind, exif=b"Exif\0\0" + block)
    tracemalloc.start()
    try:
        assert decode(content, max_pixels=MAX).shape == (60, 90, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < SMALL


def test_scans_are_counted_in_the_picture_alone() -> None:
    """Not in what applications put into a header, nor after the end, nor by chance in the data."""
    content = encoded(photo(), progressive=True, quality=90)
    inside = b"\xff\xe2" + struct.pack(">H", 2 + 1000) + b"\xff\xda" * 500
    for other in (content[:2] + inside + content[2:], content + b"\xff\xda" * 500):
        np.testing.assert_array_equal(
            decode(other, max_pixels=MAX), decode(content, max_pixels=MAX)
        )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_what_follows_a_picture_is_passed_over(kind: str) -> None:
    content = encoded(photo(), kind)
    found = decode(content + b"garbage" * 100, max_pixels=MAX)
    np.testing.assert_array_equal(found, decode(content, max_pixels=MAX))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("damage", ["zeros", "cut", "tail", "marker"])
def test_a_jpeg_with_damaged_scans_is_refused(damage: str, mode: str, progressive: bool) -> None:
    content = encoded(photo(400, 300).convert(mode), progressive=progressive)
    middle = len(content) // 2
    damaged = {
        "zeros": content[:middle] + bytes(1000) + content[middle + 1000 :],
        "cut": content[:middle],
        "tail": content[:middle] + bytes(len(content) - middle),
        "marker": content[:middle] + b"\xff\x3f" + content[middle + 2 :],
    }
    with pytest.raises(BadPicture, match="damaged picture"):
        decode(damaged[damage], max_pixels=MAX)


@pytest.mark.parametrize("bits", [1, 8, 16])
@pytest.mark.parametrize("rows", [0, 1, 20, 39])
def test_a_png_that_ends_between_two_rows_is_refused(bits: int, rows: int) -> None:
    """Black at the end of a whole one is as good as any colour."""
    row = b"\0" + b"\xff" * (40 * bits // 8)
    with pytest.raises(BadPicture, match="damaged picture"):
        decode(png(40, 40, bits, 0, row * rows), max_pixels=MAX)
    black = png(40, 40, bits, 0, row * rows + bytes(len(row)) * (40 - rows))
    assert decode(black, max_pixels=MAX).mean() == pytest.approx(255 * rows / 40)


def test_an_interlaced_png_that_lacks_its_last_pass_is_refused() -> None:
    rows = [1, 1, 2, 2, 2, 4, 4]  # pixels in each row of passes 1, 4, 5, 6, 6, 7 and 7, of 4 × 4

    def interlaced(widths: list[int], value: int) -> bytes:
        content = png(4, 4, 8, 0, b"".join(b"\0" + bytes([value]) * wide for wide in widths))
        header = content[12:28] + b"\1"
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]

    for value in (0, 9):
        assert (decode(interlaced(rows, value), max_pixels=MAX) == value).all()
        for lacking in range(1, 7):
            with pytest.raises(BadPicture, match="damaged picture"):
                decode(interlaced(rows[:-lacking], value), max_pixels=MAX)


def changed_frame(at: int, value: int) -> bytes:
    content = bytearray(encoded(photo()))
    content[content.index(b"\xff\xc0") + at] = value
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        changed_frame(4, 12),  # bits
        changed_frame(1, 0xC3),  # lossless
        changed_frame(1, 0xC9),  # arithmetic
        changed_frame(9, 2),  # components
        b"\xff\xd8\xff",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xe0\x00\x01\xff\xd9",
        b"\xff\xd8\xff\xe0\xff\xff\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x02\xff\xda\x00\x02",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"MM\0*\xff\xff\xff\xff",
        b"II+\0\x08\0\0\0" + b"\xff" * 8,
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8L",
        tiff(np.zeros((40, 40), "u1"), tags={278: (4, [10]), 273: (4, [8, 408])}),
    ],
)
def test_headers_that_make_no_sense_are_refused(content: bytes) -> None:
    with pytest.raises(BadPicture, match=r"^damaged picture|^picture without pixels"):
        decode(content, max_pixels=MAX)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_cut_and_many_changes_are_read_or_bad(kind: str) -> None:
    """Nothing but a BadPicture comes out, whatever lies in the bytes."""
    content, draw = encoded(photo(30, 20), kind), np.random.default_rng(0)
    for end in range(0, len(content), max(1, len(content) // 200)):
        read_or_bad(content[:end])
    for _ in range(300):
        changed = bytearray(content)
        for place in draw.integers(0, min(len(content), 200), 3):
            changed[place] = draw.integers(256)
        read_or_bad(bytes(changed))


def read_or_bad(content: bytes) -> None:
    try:
        assert decode(content, max_pixels=10**6).ndim == 3
    except BadPicture as error:
        assert str(error)  # noqa: PT017 (either is right)


def test_an_opened_picture_is_bounded_as_its_file_is() -> None:
    with Image.open(io.BytesIO(scans(1000))) as image, pytest.raises(BadPicture, match="scans"):
        convert(image, max_pixels=MAX)
    with pytest.raises(BadPicture, match="30 megapixels where 25"):
        convert(Image.new("1", (6000, 5000)), max_pixels=MAX)
    with pytest.raises(BadPicture, match="header claims 3600 pixels where 3000 are allowed"):
        convert(Image.new("1", (60, 60)), max_pixels=3000)
    with pytest.raises(BadPicture, match="strip"):
        convert(Image.new("1", (101, 1)), max_pixels=MAX)
    assert issubclass(BadPicture, DataError)


@pytest.mark.parametrize("turn", [False, True])
def test_the_middle_of_the_longest_sides_is_as_open_clip_has_it(turn: bool) -> None:
    """And the strip that it would make on the way is not made."""
    pixels = np.random.default_rng(0).integers(0, 256, (500, 5, 3), dtype=np.uint8)
    pixels = np.ascontiguousarray(pixels.swapaxes(0, 1)) if turn else pixels
    cfg = PreprocessCfg(
        size=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="shortest"
    )
    theirs = image_transform_v2(cfg, is_train=False)(Image.fromarray(pixels)).numpy() * 255
    ours = to_square(pixels, 32, resize="shortest")
    assert np.abs(theirs.round().astype(int) - ours).max() <= 1


@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("sides", [(501, 5), (5, 501), (0, 5), (5, 0)])
def test_strips_and_nothing_are_refused_by_every_way_to_a_square(
    sides: tuple[int, int], resize: Resize
) -> None:
    with pytest.raises(BadPicture, match=r"strip of|without pixels"):
        to_square(np.zeros((*sides, 3), np.uint8), 32, resize=resize)


PEAK = """
import resource, sys
from raypose.data.images import decode
from support.pictures import encoded, photo
for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
    decode(encoded(photo(), kind), max_pixels=10**6)
content = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(content, max_pixels=25_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def held(image: Image.Image, kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, kind, exif=exif, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda image: held(image, "JPEG", progressive=True, subsampling=0),
        lambda image: held(image.convert("RGBA"), "PNG", compress_level=1),
        lambda image: held(image.convert("RGBA"), "WEBP", method=0, quality=20),
        lambda image: held(image.convert("F"), "TIFF", compression="tiff_deflate"),
    ],
    ids=["progressive JPEG", "PNG", "WebP", "TIFF"],
)
def test_memory_grows_with_pixels_only(make: Callable[[Image.Image], bytes]) -> None:
    """Twelve bytes a pixel, and what the file itself takes."""
    content = make(Image.new("RGB", (4000, 2500), "red"))
    folders = [str(Path(support.__file__).parents[1]), *sys.path]
    out = subprocess.run(
        [sys.executable, "-c", PEAK],
        input=content,
        capture_output=True,
        check=True,
        env={"PYTHONPATH": ":".join(folders)},
    )
    kilobyte = 1 if sys.platform == "darwin" else 1024
    assert int(out.stdout) * kilobyte < 10_000_000 * 16 + 2 * len(content)


def test_a_process_with_little_memory_says_that_a_picture_is_bad() -> None:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))

    script = "import sys\nfrom raypose.data.images import decode\n"
    script += "from raypose.errors import BadPicture\n"
    script += "try: decode(sys.stdin.buffer.read(), max_pixels=10**9)\n"
    script += "except BadPicture as error: print(error)"
    content = encoded(Image.new("L", (20_000, 20_000)), "PNG")
    out = subprocess.run(
        [sys.executable, "-c", script],
        input=content,
        capture_output=True,
        preexec_fn=lower,
        env={"PYTHONPATH": ":".join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert out.stdout.decode().startswith("damaged picture"), out.stderr.decode()[-500:]


def test_the_default_is_25_megapixels() -> None:
    from raypose.config import Config, Packing

    assert Config().data.max_pixels == Packing().max_pixels == MAX
    assert preprocess(encoded(photo()), size=8, resize="squash", max_pixels=MAX).shape == (3, 8, 8)
