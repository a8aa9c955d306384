"""What a source holds: where each picture lies, and what was left out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from raypose import storage
from raypose.errors import DataError

__all__ = [
    "LABEL_COLUMNS",
    "MANIFEST",
    "PATH_COLUMNS",
    "PICTURES",
    "RECORDS",
    "Entry",
    "Listing",
    "Rejected",
    "column",
    "inside",
]

MANIFEST = "MANIFEST.json"
"""What closes a folder of shards: see `shards`."""


RECORDS = "_building"
"""What lies in one that is being built."""


PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")


LABEL_COLUMNS = ("label", "labels", "class", "posture", "pose")


class Entry(NamedTuple):
    """Where one picture lies.

    `offset` and `size` are bytes in a tar, a row of Parquet, or the seed and side of a drawing.
    Entries with the same `group` are read together.
    """

    id: str
    label: str
    url: str
    offset: int = 0
    size: int = -1
    group: str = ""


class Rejected(NamedTuple):
    """A picture left out, and why."""

    id: str
    reason: str


@dataclass
class Listing:
    """What a source holds.

    Attributes:
        source: its location.
        entries: its pictures; ids are unique.
        rejected: what was seen to be unusable without reading it.
        listed: pictures of each class that a list names, where there is a list.
    """

    source: str
    entries: list[Entry] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    listed: dict[str, int] = field(default_factory=dict)


def column(found: Sequence[str], known: Sequence[str], *, where: str) -> str:
    """Return the first known column that was found; a DataError names what there is."""
    for name in known:
        if name in found:
            return name
    there = ", ".join(found) or "none"
    raise DataError(f'{where}: no column "{known[0]}"; found {there}; name one {known[0]}')


def inside(folder: str, ending: str) -> list[str]:
    """Return the locations of a folder's files with an ending."""
    names = storage.list_files(folder)
    return [storage.join(folder, name) for name in names if name.endswith(ending)]
