"""Settings of packing pictures into shards."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raypose.config.section import MAX_PIXELS, Count, Fraction, Section

__all__ = ["Packing"]


class Packing(Section):
    """How pictures are packed."""

    max_side: Count | None = None
    """Pixels of the longer side at most, upright and as JPEG; by default bytes stay as they are."""
    quality: Annotated[int, Field(ge=1, le=95)] = 85
    """Of that JPEG."""
    max_pixels: Count = MAX_PIXELS
    """Pictures whose header claims more are left out."""
    rows_per_shard: Count = 256
    """Pictures in one file."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the order of rows."""
    check: bool = True
    """Decode each picture, so that what is packed can be read."""
    max_bad_fraction: Fraction = 0.01
    """Share of pictures that may be unusable; above it the build is not closed."""
