"""The lists of Yoga-82."""

from __future__ import annotations

from collections import Counter

from raypose import storage
from raypose.captions import taxonomy
from raypose.captions.taxonomy import Taxonomy
from raypose.data.sources.listing import (
    Entry,
    Listing,
)
from raypose.errors import DataError

__all__ = ["list_source"]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """Read a list of Yoga-82: ``folder/file.jpg,level 6,level 20,class``."""
    cards = (classes or taxonomy.load("yoga82")).cards
    there = set(storage.list_files(pictures, recursive=True))
    listing, listed = Listing(source), Counter[str]()
    above: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(storage.read_bytes(source).decode().splitlines(), start=1):
        if not line.strip():
            continue
        path, *levels = (part.strip() for part in line.rsplit(",", 3))
        where = f"{source}: line {number}"
        if len(levels) != 3 or not all(map(str.isdigit, levels)) or "/" not in path:
            raise DataError(f"{where}: expected folder/file,level 6,level 20,class; found {line!r}")
        folder, six, twenty, label = path.split("/")[0], *levels
        if int(label) >= len(cards) or cards[int(label)].id != folder:
            owner = cards[int(label)].id if int(label) < len(cards) else "none"
            raise DataError(f'{where}: folder "{folder}" is class {label}, which is "{owner}"')
        if above.setdefault(label, (six, twenty)) != (six, twenty):
            raise DataError(f"{where}: class {label} lies under two parents")
        listed[folder] += 1
        if path in there:
            listing.entries.append(Entry(path, folder, storage.join(pictures, path)))
    listing.listed = dict(sorted(listed.items()))
    return listing
