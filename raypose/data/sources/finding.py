"""Any source → its pictures: listed first, without reading one, and read later, piece by piece.

An entry says where a picture lies, be it a file, a stretch of a tar, a row of Parquet, or a drawing
still to be made. Only entries are held for all pictures, some hundred bytes each; pictures are held
a shard, or a few row groups of Parquet, at a time. Nothing is unpacked to disk.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raypose import storage, synthesis
from raypose.captions.taxonomy import Taxonomy
from raypose.console import status
from raypose.data import images
from raypose.data.manifests import MANIFEST, RECORDS
from raypose.data.sources import csv, imagefolder, parquet, rules, webdataset, yoga82
from raypose.data.sources.listing import COMPRESSED, Entry, Listing, folders_in
from raypose.errors import DataError, NotFoundError, UsageError, did_you_mean

__all__ = ["KINDS", "drawings", "find", "opened"]

DRAWN = "draw:"
SHOWN_NUMBERS = 6
_GAPS = re.compile(r"[\s_\u2010-\u2015\u2212-]+")


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
    source = storage.absolute(source)
    pictures = storage.absolute(pictures) if pictures else ""
    if pictures and not storage.exists(pictures):
        raise NotFoundError(f"pictures={pictures}: not found; check the path")
    chosen = _guess(source) if kind == "auto" else kind
    listing = KINDS[chosen](source, pictures or source.rpartition("/")[0] or "/", classes)
    if listing.listed and not listing.entries:
        raise DataError(
            f"{source}: none of the {sum(listing.listed.values())} pictures that it lists is in "
            f"{pictures or 'its folder'}; download them, or say where they are by pictures="
        )
    if not listing.entries and not storage.exists(source):
        raise NotFoundError(f"{source}: not found; check the path")
    if not listing.entries:
        first = "".join(f"; {one.id}: {one.reason}" for one in listing.rejected[:1])
        flat = chosen == "imagefolder" and any("/" not in one.id for one in listing.rejected)
        if flat and rules.ending(listing.rejected[0].id) in rules.PICTURES:
            first += "; if it is one class, give the folder that it is in"
        raise DataError(f"{source}: no pictures found, read as {chosen}; {EXPECTED[chosen]}{first}")
    labels = {entry.label for entry in listing.entries}
    _unmixed(listing, labels, classes)
    _tell_labels(listing, labels, classes)
    listing.entries = list(_as_cards(listing, classes))
    _once(listing)
    listing.places = (source,)
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
        return storage.read_bytes(entry.place, offset=entry.offset, size=entry.size)

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
    """Tell the kind of a source from names; refuse one that may be two kinds."""
    low = source.lower()
    if low.endswith(COMPRESSED):
        raise DataError(f"{source}: what is compressed cannot be read in places; unpack it")
    ending = rules.ending(low)
    if ending in BY_ENDING:
        return BY_ENDING[ending]
    if storage.is_file(source):
        raise DataError(
            f"{source}: is a file, and neither a list (.csv, .tsv, .txt) nor a .tar or .parquet; "
            "give the folder that pictures are in"
        )
    names = storage.list_files(source)
    if MANIFEST in names:
        _refuse_classes_beside(source)
        return "parquet"
    _refuse_data_sets(source)
    kinds = {BY_ENDING[end]: end for name in names if (end := rules.ending(name)) in ARCHIVES}
    folders = next(_picture_folders(source), "") if kinds else ""
    if len(kinds) > 1 or (kinds and folders):
        found = [*kinds.values(), *(["class folders"] if folders else [])]
        raise DataError(
            f"{source}: holds {' and '.join(found)}; say which by kind={next(iter(kinds))}"
            + (" or kind=imagefolder" if folders else "")
        )
    return next(iter(kinds), "imagefolder")


def _refuse_classes_beside(source: str) -> None:
    """Refuse a data set among class folders: pictures in these would be passed over."""
    for name in _picture_folders(source):
        raise DataError(
            f"{source}: holds a data set, and folders of pictures such as {rules.as_text(name)}"
            "; say which by kind=parquet or kind=imagefolder"
        )


def _refuse_data_sets(source: str) -> None:
    """Refuse a folder whose folders are all data sets, and no classes."""
    urls = [storage.join(source, name) for name in _folders(source)]
    notes = (MANIFEST, f"{RECORDS}/plan")
    if urls and all(any(storage.exists(storage.join(u, note)) for note in notes) for u in urls):
        raise DataError(f"{source}: its folders are data sets, not classes; give one: {urls[0]}")


def _picture_folders(source: str) -> Iterator[str]:
    """Yield the folders in a folder that hold pictures, however deep; each is left at its first."""
    for name in _folders(source):
        walked = storage.walk(storage.join(source, name))
        if any(rules.ending(inner) in rules.PICTURES for inner, _ in walked):
            yield name


def _folders(source: str) -> list[str]:
    return [name for name in folders_in(source) if name != RECORDS]


def _as_cards(listing: Listing, classes: Taxonomy | None) -> Iterator[Entry]:
    """Put card ids in place of class numbers and aliases, where there is a taxonomy."""
    known = classes.index() if classes else {}
    for entry in listing.entries:
        label = entry.label
        if classes and label in known:
            entry = entry._replace(label=classes.ids[known[label]])
        elif classes and 0 <= (number := rules.number_of(label)) < len(classes):
            entry = entry._replace(label=classes.ids[number])
        yield entry


def _numbers(labels: set[str], known: Collection[str]) -> set[str]:
    """Return the labels that are class numbers, and no labels of classes."""
    return {label for label in labels if label not in known and rules.number_of(label) >= 0}


def _both_ways(labels: set[str], known: Collection[str]) -> str:
    """Return what is said where some labels are class numbers and others are not; else nothing."""
    numbers = _numbers(labels, known)
    if not numbers or numbers == labels:
        return ""
    return (
        f'some labels are class numbers, such as "{min(numbers)}", and others are none, such as '
        f'"{min(labels - numbers)}"'
    )


def _tell_labels(listing: Listing, labels: set[str], classes: Taxonomy | None) -> None:
    """Say which cards class numbers are taken for, or that they stay numbers; and what is odd."""
    odd = sorted(label for label in labels if not classes and label.lower() in rules.DOUBTFUL)
    if odd:
        status(
            f'{listing.source}: "{odd[0]}" is taken for a class; take it out where it means none'
        )
    known = classes.index() if classes else {}
    if both := _both_ways(labels, known):
        status(f"{listing.source}: {both}")
    numbers = sorted(map(rules.number_of, _numbers(labels, known)))
    if not numbers or both:
        return
    if classes is None:
        status(f"{listing.source}: labels are class numbers; taxonomy= would give them names")
        return
    named = [f"{number} = {classes.ids[number]}" for number in numbers if number < len(classes)]
    more = f", … ({len(named)} in all)" if len(named) > SHOWN_NUMBERS else ""
    shown = ", ".join(named[:SHOWN_NUMBERS])
    status(f'{listing.source}: class numbers are read by taxonomy "{classes.name}": {shown}{more}')


def _unmixed(listing: Listing, labels: set[str], classes: Taxonomy | None) -> None:
    """Refuse labels that no class has, and two labels of one class.

    Where there is a taxonomy, labels are class numbers or labels of cards, not one here and one
    there: "1" may be either.
    """
    known = classes.index() if classes else {}
    if classes:
        numbers = map(str, range(len(classes)))
        classes.require(labels - {*numbers}, where=listing.source)
    if classes and (both := _both_ways(labels, known)):
        raise DataError(f"{listing.source}: {both}; write all in one way")
    owner: dict[Any, str] = {}
    for label in sorted(labels):
        key = known.get(label, _seen(label))
        other = owner.setdefault(key, label)
        if other != label:
            same = "differ in case, spaces or dashes alone"
            if classes and isinstance(key, int):
                same = f'are both class "{classes.ids[key]}"'
            raise DataError(
                f'{listing.source}: "{other}" and "{label}" {same}; merge them in one folder or '
                "under one label"
            )


def _seen(label: str) -> str:
    """Return what is to be seen of a label, however it is written."""
    if (number := rules.number_of(label)) >= 0:
        return str(number)
    forms = "\ufe0e\ufe0f"  # which say only how the letter before them is drawn
    shown = "".join(sign for sign in label if not rules.is_unseen(sign) and sign not in forms)
    return _GAPS.sub(" ", unicodedata.normalize("NFKC", shown)).strip().casefold()


def _once(listing: Listing) -> None:
    """Keep one of entries that are the same, and name the others; refuse two labels of one picture.

    A list may have one picture by several paths.

    Raises:
        DataError: naming a picture that is listed under two labels.
    """
    by_id: dict[str, Entry] = {}
    by_place: dict[str, Entry] = {}
    kept: list[Entry] = []
    for entry in listing.entries:
        first = by_id.setdefault(entry.id, entry)
        if first is entry and listing.may_miss:
            first = by_place.setdefault(storage.resolved(entry.place), entry)
        if first is entry:
            kept.append(entry)
            continue
        if first.label != entry.label:
            also = "" if first.id == entry.id else f", also as {first.id}"
            raise DataError(
                f'{listing.source}: {entry.id} is listed as "{first.label}" and as '
                f'"{entry.label}"{also}; keep one'
            )
        if _where(first) == _where(entry):
            listing.leave_out(entry.id, "listed twice")
        else:
            listing.refuse(entry.id, "another picture has its name; rename one")
    listing.entries = kept


def _where(entry: Entry) -> tuple[str, int, str]:
    return storage.resolved(entry.place), entry.offset, entry.group


KINDS: Mapping[str, Callable[[str, str, Taxonomy | None], Listing]] = {
    "imagefolder": imagefolder.list_source,
    "yoga82": yoga82.list_source,
    "webdataset": webdataset.list_source,
    "parquet": parquet.list_source,
    "csv": csv.list_source,
}
"""Kind of source → what lists it."""


ARCHIVES = (".parquet", ".tar")
BY_ENDING = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "yoga82",
    ".tar": "webdataset",
    ".parquet": "parquet",
}
"""Ending → kind."""


EXPECTED = {
    "imagefolder": "expected one folder for each class",
    "yoga82": "expected lines of folder/file.jpg,level 6,level 20,class",
    "webdataset": "expected pictures, each with a .cls or .json beside it or in a class folder",
    "parquet": "expected rows of image and label",
    "csv": "expected lines of path and label below a header",
}
