"""Any source → its pictures: listed first, without reading one, and read later, piece by piece.

An entry says where a picture lies, be it a file, a stretch of a tar, a row of Parquet, or a drawing
still to be made. Only entries are held for all pictures, some hundred bytes each; pictures are held
a shard, or a few row groups of Parquet, at a time. Nothing is unpacked to disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from raypose import storage, synthesis
from raypose.captions.taxonomy import Taxonomy
from raypose.data import images
from raypose.data.sources import csv, imagefolder, parquet, webdataset, yoga82
from raypose.data.sources.listing import Entry, Listing, Rejected
from raypose.errors import DataError, NotFoundError, UsageError, did_you_mean

__all__ = ["KINDS", "drawings", "find", "opened"]

DRAWN = "draw:"


def find(
    source: str, *, kind: str = "auto", pictures: str = "", classes: Taxonomy | None = None
) -> Listing:
    """List a source.

    Args:
        source: file or folder, local or on S3.
        kind: one of `KINDS`, or auto: told from names.
        pictures: folder that the paths of a list are relative to; by default the list's own.
        classes: where given, labels must be in it, and class numbers are looked up in it.

    Raises:
        UsageError: where there is no such kind.
        DataError: where the source cannot be read or holds nothing, or two of its labels are one
            class.
        TaxonomyError: where a label is not in the taxonomy.
    """
    if kind not in ("auto", *KINDS):
        raise UsageError(f"kind: no {kind!r}{did_you_mean(kind, KINDS)}; known: {', '.join(KINDS)}")
    chosen = _guess(source) if kind == "auto" else kind
    listing = KINDS[chosen](source, pictures or source.rpartition("/")[0] or ".", classes)
    if listing.listed and not listing.entries:
        raise DataError(
            f"{source}: none of the {sum(listing.listed.values())} pictures that it lists is in "
            f"{pictures or 'its folder'}; download them, or say where they are by pictures="
        )
    if not listing.entries and not storage.exists(source):
        raise NotFoundError(f"{source}: not found; check the path")
    if not listing.entries:
        raise DataError(f"{source}: no pictures found, read as {chosen}; {EXPECTED[chosen]}")
    listing.entries = list(_numbered(listing, classes))
    _unmixed(listing, classes)
    _once(listing)
    return listing


def opened(entries: Sequence[Entry]) -> Callable[[Entry], bytes]:
    """Return what reads each of some entries; rows of Parquet are read here, all others when asked.

    What is returned raises NotFoundError where the picture is not there.
    """
    rows = parquet.read_rows([entry for entry in entries if entry.group])

    def read(entry: Entry) -> bytes:
        if entry.group:
            return rows[entry.id]
        if entry.url.startswith(DRAWN):
            label = entry.url.removeprefix(DRAWN)
            picture = synthesis.render(label, seed=entry.offset, size=entry.size)
            return images.encode(np.asarray(picture))
        return storage.read_bytes(entry.url, offset=entry.offset, size=entry.size)

    return read


def drawings(counts: Mapping[str, int], *, size: int, seed: int) -> Listing:
    """List pictures to be drawn: so many of each posture, numbered from `seed` on."""
    entries = [
        Entry(f"{label}/{number:06d}.jpg", label, f"{DRAWN}{label}", number, size)
        for label, count in counts.items()
        for number in range(seed, seed + count)
    ]
    return Listing("drawings", entries)


def _guess(source: str) -> str:
    if source.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
        raise DataError(f"{source}: a compressed tar cannot be read in places; unpack it to .tar")
    by_ending = {".csv": "csv", ".txt": "yoga82", ".tar": "webdataset", ".parquet": "parquet"}
    ending = PurePosixPath(source).suffix
    if ending in by_ending:
        return by_ending[ending]
    endings = {PurePosixPath(name).suffix for name in storage.list_files(source)}
    return next((by_ending[e] for e in (".parquet", ".tar") if e in endings), "imagefolder")


def _numbered(listing: Listing, classes: Taxonomy | None) -> Iterator[Entry]:
    """Put card ids in place of class numbers, where a taxonomy has that many classes."""
    known = classes.index() if classes else {}
    for entry in listing.entries:
        label = entry.label
        if classes and label not in known and label.isdecimal() and int(label) < len(classes):
            entry = entry._replace(label=classes.ids[int(label)])
        yield entry


def _unmixed(listing: Listing, classes: Taxonomy | None) -> None:
    """Refuse labels that no class has, and two labels of one class."""
    labels = sorted({entry.label for entry in listing.entries})
    known = classes.index() if classes else {}
    if classes:
        classes.require(labels, where=listing.source)
    owner: dict[Any, str] = {}
    for label in labels:
        key = known.get(label, re.sub(r"[\s_-]+", " ", label).strip().casefold())
        other = owner.setdefault(key, label)
        if other != label:
            name = f'class "{classes.ids[key]}"' if classes and isinstance(key, int) else "one"
            raise DataError(
                f'{listing.source}: "{other}" and "{label}" are both {name}; merge them in one '
                "folder or under one label"
            )


def _once(listing: Listing) -> None:
    """Keep the first of entries with one id, and name the others."""
    kept: dict[str, Entry] = {}
    for entry in listing.entries:
        if kept.setdefault(entry.id, entry) is not entry:
            listing.rejected.append(Rejected(entry.id, "listed twice"))
    listing.entries = list(kept.values())


KINDS: Mapping[str, Callable[[str, str, Taxonomy | None], Listing]] = {
    "imagefolder": imagefolder.list_source,
    "yoga82": yoga82.list_source,
    "webdataset": webdataset.list_source,
    "parquet": parquet.list_source,
    "csv": csv.list_source,
}
"""Kind of source → what lists it."""


EXPECTED = {
    "imagefolder": "expected one folder for each class",
    "yoga82": "expected lines of folder/file.jpg,level 6,level 20,class",
    "webdataset": "expected pictures, each with a .cls or .json beside it or in a class folder",
    "parquet": "expected rows of image and label",
    "csv": "expected lines of path and label below a header",
}
