"""What a picture is like, noted when it is packed, so that no later look has to decode it again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["LOOK", "THUMB_SIDE", "Look", "is_look", "look"]

THUMB_SIDE = 32
DIGEST_BYTES = 16
LEVELS = 16
"""Of brightness, by which a pixel differs from its surroundings."""
LOOK = pa.struct(
    [
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_bytes", pa.int64()),
        ("detail", pa.float64()),
        ("thumb", pa.binary()),
        ("digest", pa.binary()),
    ]
)
"""A `Look` in a shard: some 1.1 kB."""


class Look(NamedTuple):
    """One picture.

    Attributes:
        width: in pixels, upright.
        height: in pixels, upright.
        num_bytes: of the file.
        detail: share of pixels, in 0..1, that differ from the commonest brightness.
        thumb: uint8 (32, 32), brightness.
        digest: the first half of the SHA-256 of the file.
    """

    width: int
    height: int
    num_bytes: int
    detail: float
    thumb: bytes
    digest: bytes


def look(content: bytes, pixels: npt.NDArray[np.uint8]) -> Look:
    """Look at a picture.

    Args:
        content: of its file.
        pixels: uint8 (H, W, 3), what `images.decode` gives for it.
    """
    from PIL import Image  # whoever reads a manifest needs no decoder

    grey = Image.fromarray(pixels).convert("L")
    small = grey.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)
    counts = np.array(grey.histogram())
    ground = int(counts.argmax())
    alike = int(counts[max(0, ground - LEVELS) : ground + LEVELS + 1].sum())
    detail = 1 - alike / counts.sum()
    digest = hashlib.sha256(content).digest()[:DIGEST_BYTES]
    return Look(grey.width, grey.height, len(content), float(detail), small.tobytes(), digest)


def is_look(seen: Mapping[str, Any] | None) -> bool:
    """Tell whether what a shard notes of a picture can have come from `look`."""
    if seen is None or None in seen.values():
        return False
    least = min(seen["width"], seen["height"], seen["num_bytes"])
    of_size = len(seen["thumb"]) == THUMB_SIDE**2 and len(seen["digest"]) == DIGEST_BYTES
    return of_size and least > 0 and 0 <= seen["detail"] <= 1
