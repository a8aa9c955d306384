"""Pictures made on the spot: good, damaged and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import Image

from raypose import synthesis
from raypose.data import packing


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


def photo(width: int = 90, height: int = 60, seed: int = 1) -> Image.Image:
    return synthesis.render("Boat_Pose_or_Paripurna_Navasana_", seed=seed, size=96).resize(
        (width, height)
    )


def pack(contents: dict[str, bytes], dest: str, folder: Path) -> None:
    """Pack pictures, the bad ones too, as they are: id → bytes, where ids are class/name."""
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    packing.build(str(folder), dest, packing.Packing(check=False))
