"""One folder for each class."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from raypose import storage
from raypose.captions import folders
from raypose.captions.taxonomy import Taxonomy
from raypose.data.sources.listing import (
    Entry,
    Listing,
    Rejected,
)
from raypose.errors import DataError

__all__ = ["list_source"]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List a folder: the class of a picture is the folder it lies in.

    What lies in hidden folders is passed over, as hidden files are.

    Raises:
        DataError: where the folder holds sets, such as train and val, and not classes.
    """
    listing = Listing(source)
    names = [name for name in storage.list_files(source, recursive=True) if "/." not in f"/{name}"]
    _refuse_sets(source, names)
    for name in names:
        above = name.split("/")[:-1]
        if any(map(folders.is_foreign, above)):
            listing.rejected.append(Rejected(name, "in a folder that a tool made, no class"))
        elif above:
            listing.entries.append(Entry(name, above[-1], storage.join(source, name)))
        else:
            listing.rejected.append(Rejected(name, "not in a class folder"))
    seen = {part for entry in listing.entries for part in entry.id.split("/")[:-1]}
    absent = [name for name in storage.list_folders(source) if name not in seen]
    empty = [name for name in absent if not folders.is_foreign(name)]
    listing.rejected += [Rejected(f"{name}/", "class folder holds no picture") for name in empty]
    return listing


def _refuse_sets(source: str, names: Iterable[str]) -> None:
    """Refuse folders side by side that are named as sets, where one of them holds class folders."""
    found: dict[str, dict[str, bool]] = {}  # folder above → set → whether it holds class folders
    for name in names:
        above = name.split("/")[:-1]
        if any(map(folders.is_foreign, above)):
            continue
        for depth, part in enumerate(above):
            if part.lower() in folders.SPLITS:
                sets = found.setdefault("/".join([source.rstrip("/"), *above[:depth]]), {})
                sets[part] = sets.get(part, False) or depth + 1 < len(above)
    for where, sets in found.items():
        if len(sets) > 1 and any(sets.values()):
            in_order = sorted(sets, key=lambda name: folders.SPLITS.index(name.lower()))
            first = next(name for name in in_order if sets[name])
            place = shlex.quote(storage.join(where, first))
            raise DataError(
                f"{where}: holds sets, not classes ({', '.join(in_order)}); pack each: "
                f"raypose shards build {place} DEST/{first}"
            )
