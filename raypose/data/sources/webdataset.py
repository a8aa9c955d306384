"""Tars in the form of WebDataset: a picture with its label beside it, or in a class folder.

What stands beside a picture has its name with another ending: of ``yoga.1.jpg`` the label is in
``yoga.1.cls``. Where a sample has one picture only, its key may also end at the first dot, as
WebDataset's own do: ``7.image.jpg`` with ``7.cls``.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.data.manifests import Rejected
from raypose.data.sources import rules, text
from raypose.data.sources.listing import Entry, Listing, inside
from raypose.errors import DataError

__all__ = ["list_source"]

LABELLED = (".cls", ".json")


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List the members of a tar, or of the tars of a folder, in one pass over each."""
    listing = Listing(source)
    alone = source.lower().endswith(".tar")
    above, _, name = source.rpartition("/")
    tars = inside(source, ".tar") if not alone else {}
    there = storage.list_stats(above or ".") if alone else {}
    listing.stamp_files(sorted((tars or {one: there[one] for one in there if one == name}).items()))
    for tar in tars or [source]:
        _list_tar(listing, tar, f"{PurePosixPath(tar).stem}/" if len(tars) > 1 else "")
    return listing


def _list_tar(listing: Listing, tar: str, prefix: str) -> None:
    told: dict[str, set[str]] = {}  # stem → the labels beside it
    found: list[tuple[str, Entry]] = []
    for member, content in _members(tar):
        name = member.name.removeprefix("./")
        if rules.is_passed_over(name):
            continue
        stem = name.rpartition(".")[0]
        if rules.ending(name) in rules.PICTURES:
            place = Entry(
                rules.as_text(prefix + name),
                name.rpartition("/")[0].rpartition("/")[2],
                tar,
                member.offset_data,
                member.size,
            )
            found.append((stem, place))
        elif content is not None:
            label = _label_in(listing, prefix + name, content, where=f"{tar}: {name}")
            if label is not None:
                told.setdefault(stem, set()).add(label)
    stems = {stem for stem, _ in found}
    found = [
        (stem, entry)
        for stem, entry in found
        if stem in told or not rules.is_mask(f"{stem}.", stems) or not _drop(listing, entry)
    ]
    lonely = Counter(_first_key(stem) for stem, _ in found)
    for stem, entry in found:
        short = _first_key(stem)
        labels = told.get(stem) or (told.get(short) if lonely[short] == 1 else None)
        _enter(listing, entry, labels or set())


def _drop(listing: Listing, entry: Entry) -> bool:
    listing.rejected.append(Rejected(entry.id, "drawn from the picture beside it"))
    return True


def _enter(listing: Listing, entry: Entry, labels: set[str]) -> None:
    """Enter a picture under its label: what stands beside it, or its folder."""
    if len(labels) > 1:
        both = " and ".join(sorted(labels))
        listing.refuse(entry.id, f"has two labels beside it, {both}; keep one")
        return
    try:
        label = rules.label_of(next(iter(labels), entry.label))
    except rules.BadLabel as error:
        listing.refuse(entry.id, str(error))
        return
    if label:
        listing.entries.append(entry._replace(label=label))
    else:
        reason = "has no label: no .cls or .json beside it, and no folder"
        listing.rejected.append(Rejected(entry.id, reason))


def _first_key(stem: str) -> str:
    """Return what stands before the first dot of a name, as WebDataset cuts it."""
    above, slash, name = stem.rpartition("/")
    return f"{above}{slash}{name.partition('.')[0]}"


def _members(tar: str) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield the files of a tar in one pass, with the content of those that hold labels."""
    name, count = "its first file", 0
    try:
        with storage.open_stream(tar) as (stream, num_bytes):
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # they pile up otherwise
                    name, count = member.name, count + member.isfile()
                    if not member.isfile():
                        continue
                    labelled = rules.ending(member.name) in LABELLED
                    file = archive.extractfile(member) if labelled else None
                    yield member, file.read() if file else None
                if archive.offset + tarfile.BLOCKSIZE > num_bytes:  # a whole one ends with zeros
                    raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(
            f"{tar}: cut off or damaged at {name}, after {count} files ({error}); fetch it again"
        ) from None


def _label_in(listing: Listing, name: str, content: bytes, *, where: str) -> str | None:
    """Return the label that a file beside a picture holds; None where it holds none."""
    try:
        if rules.ending(name) == ".cls":
            return rules.label_of(text.decoded(content, where=where)) or None
        document = json.loads(text.decoded(content, where=where))
        found = document if isinstance(document, Mapping) else {}
        value = next((found[key] for key in rules.LABEL_COLUMNS if key in found), None)
        return rules.label_of(value) or None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error}); mend it, or take it out") from None
    except RecursionError:
        raise DataError(f"{where}: not JSON (nested too deep); take it out") from None
    except rules.BadLabel as error:
        raise DataError(f"{where}: {error}; mend it, or take it out") from None
