"""One folder for each class."""

from __future__ import annotations

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.data.sources.listing import (
    Entry,
    Listing,
    Rejected,
)

__all__ = ["list_source"]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List a folder: the class of a picture is the folder it lies in."""
    listing = Listing(source)
    for name in storage.list_files(source, recursive=True):
        if "/" in name:
            label = name.rsplit("/", 2)[-2]
            listing.entries.append(Entry(name, label, storage.join(source, name)))
        else:
            listing.rejected.append(Rejected(name, "not in a class folder"))
    seen = {part for entry in listing.entries for part in entry.id.split("/")[:-1]}
    empty = (folder for folder in storage.list_folders(source) if folder not in seen)
    listing.rejected += [Rejected(f"{name}/", "class folder holds no picture") for name in empty]
    return listing
