"""Pictures made on the spot: good, damaged and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from raypose import synthesis
from raypose.data import packing


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header claims width × height pixels."""
    return png(width, height, 8, 0)


def png(
    width: int,
    height: int,
    bits: int,
    color: int,
    pixels: bytes = b"",
    *,
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of rows as given, each with its filter byte, and of further chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = [(b"IDAT", zlib.compress(pixels))] if pixels else []
    parts = [(b"IHDR", header), *chunks, *data, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, parts))


def chunk(part: tuple[bytes, bytes]) -> bytes:
    kind, body = part
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


Tags = Mapping[int, tuple[int, Sequence[int]]]
FORMS = {1: "B", 2: "B", 3: "H", 4: "I"}


def directory(tags: Tags, *, order: str = "<", data: bytes = b"") -> bytes:
    """A TIFF file, or an EXIF block, of tags: number → (kind, values); data lies at byte 8."""
    data += b"\0" * (len(data) % 2)
    end = 8 + len(data) + 2 + 12 * len(tags) + 4
    table, body = b"", b""
    for number, (kind, values) in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(values)}{FORMS[kind]}", *values)
        field = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", end + len(body))
        body += raw + b"\0" * (len(raw) % 2) if len(raw) > 4 else b""
        table += struct.pack(order + "HHI", number, kind, len(values)) + field
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(tags)) + table + b"\0" * 4 + body


def tiff(
    values: npt.NDArray[np.generic],
    *,
    order: str = "<",
    photometric: int = 1,
    deflate: bool = False,
    tags: Tags | None = None,
) -> bytes:
    """A TIFF of one strip of (H, W) or (H, W, C) as it stands, and of tags besides or instead."""
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflate else data
    height, width = values.shape[:2]
    num_channels = values.shape[2] if values.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    known: Tags = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [values.dtype.itemsize * 8] * num_channels),
        259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        273: (4, [8]),
        277: (3, [num_channels]),
        278: (4, [height]),
        279: (4, [len(data)]),
        339: (3, [kind] * num_channels),
    }
    return directory({**known, **(tags or {})}, order=order, data=data)


def photo(width: int = 90, height: int = 60, seed: int = 1) -> Image.Image:
    return synthesis.render("Boat_Pose_or_Paripurna_Navasana_", seed=seed, size=96).resize(
        (width, height)
    )


def scans(num: int, *, before: bytes = b"") -> bytes:
    """A progressive JPEG that repeats its last scan."""
    content = encoded(photo(), progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:2] + before + content[2:-2] + last * num + b"\xff\xd9"


def pack(contents: dict[str, bytes], dest: str, folder: Path, *, check: bool = False) -> None:
    """Pack pictures, the bad ones too, as they are: id → bytes, where ids are class/name."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    packing.build(str(folder), dest, packing.Packing(check=check))
