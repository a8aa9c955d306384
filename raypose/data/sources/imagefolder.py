"""One folder for each class."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.console import plural, status
from raypose.data.manifests import Rejected
from raypose.data.sources import rules
from raypose.data.sources.listing import Entry, Listing
from raypose.disks import Stat
from raypose.errors import DataError

__all__ = ["list_source"]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List a folder: the class of a picture is the folder under it that it lies in, however deep.

    What is hidden, or in folders that tools make, is passed over; files that are no pictures and
    masks beside pictures are named as left out.

    Raises:
        DataError: where the folder holds sets, such as train and val, or one folder with the
            classes in it, or a class whose name is not UTF-8.
    """
    listing = Listing(source)
    names, nowhere = _names(listing, source)
    _refuse_sets(source, names)
    _refuse_wrapping(source, names)
    wanted = {rules.drawn_from(name) for name in names} - {""}
    stems = {
        stem
        for name in names
        if (stem := name.rpartition(".")[0]) in wanted and rules.ending(name) in rules.PICTURES
    }
    deep = Counter[str]()
    folder, labels = storage.join(source, ""), dict[str, str]()
    for name in names:
        label, slash, rest = name.partition("/")
        reason = _left_out(name, bool(slash), stems, nowhere)
        if reason:
            listing.rejected.append(Rejected(rules.as_text(name), reason))
            continue
        deep[label] += "/" in rest
        key = rules.as_text(name)
        place = folder if key == name else storage.join(source, name)
        listing.entries.append(Entry(key, labels.setdefault(label, _label(label, source)), place))
    _tell_depth(source, listing, deep)
    seen = {entry.label for entry in listing.entries}
    folders = [
        name for name in storage.list_folders(source) if not rules.is_passed_over(f"{name}/x")
    ]
    empty = [name for name in folders if rules.composed(name) not in seen]
    listing.rejected += [Rejected(f"{name}/", "class folder holds no picture") for name in empty]
    return listing


def _names(listing: Listing, source: str) -> tuple[list[str], set[str]]:
    """Return the files that are not passed over, sorted, and those that are links to nowhere."""
    names: list[str] = []
    nowhere: set[str] = set()

    def kept() -> Iterator[tuple[str, Stat]]:
        for name, stat in storage.walk(source):
            if name.startswith("__"):
                listing.rejected.append(Rejected(name, "in a folder that a tool made"))
            if not rules.is_passed_over(name):
                names.append(name)
                if stat.size < 0:
                    nowhere.add(name)
                yield name, stat

    listing.stamp_files(kept())
    names.sort()
    return names, nowhere


def _left_out(name: str, in_folder: bool, stems: set[str], nowhere: set[str]) -> str:
    """Return why a file is no picture of a class; empty where it may be one."""
    if not in_folder:
        return "not in a class folder"
    if rules.is_other(name):
        return "no picture by its name"
    if name in nowhere:
        return "a link that leads nowhere"
    return "drawn from the picture beside it" if rules.is_mask(name, stems) else ""


def _label(folder: str, source: str) -> str:
    if rules.as_text(folder) != folder:
        raise DataError(
            f"{source}: class folder {rules.as_text(folder)!r} has a name that is not UTF-8; "
            "rename it: convmv -f ENCODING -t utf-8 FOLDER"
        )
    try:
        label = rules.composed(folder).strip()
        return rules.label_of(label) or label
    except rules.BadLabel as error:
        raise DataError(f"{source}: class folder {folder!r}: {error}; rename it") from None


def _refuse_sets(source: str, names: Sequence[str]) -> None:
    """Refuse folders side by side that are named as sets, where one of them holds class folders."""
    found: dict[str, dict[str, bool]] = {}  # folder above → set → whether it holds class folders
    for name in names:
        above = name.split("/")[:-1]
        for depth in [depth for depth, part in enumerate(above) if rules.sets_among([part])]:
            sets = found.setdefault("/".join([source.rstrip("/"), *above[:depth]]), {})
            sets[above[depth]] = sets.get(above[depth], False) or depth + 1 < len(above)
    for where, sets in found.items():
        if len(sets) > 1 and any(sets.values()):
            in_order = rules.sets_among(sets)
            first = next(name for name in in_order if sets[name])
            place = shlex.quote(storage.join(where, first))
            raise DataError(
                f"{where}: holds sets, not classes ({', '.join(in_order)}); pack each: "
                f"raypose shards build {place} DEST/{first}"
            )


def _refuse_wrapping(source: str, names: Sequence[str]) -> None:
    """Refuse one folder that holds all others: its folders look like the classes."""
    below: dict[str, set[str]] = {}
    for name in names:
        first, *rest = name.split("/")
        if rest and not rules.is_other(name):
            below.setdefault(first, set()).add(rest[0] if len(rest) > 1 else "")
    for only, inner in below.items():
        if len(below) == 1 and len(inner) > 1 and "" not in inner:
            raise DataError(
                f"{source}: holds one folder, {only}, and its {len(inner)} folders look like "
                "classes; pack that: raypose shards build "
                f"{shlex.quote(storage.join(source, only))} DEST"
            )


def _tell_depth(source: str, listing: Listing, deep: Counter[str]) -> None:
    """Say that folders below a class folder are of its class."""
    number = sum(deep.values())
    if number:
        first = next(label for label, count in deep.items() if count)
        status(
            f"{source}: {plural(number, 'picture')} in folders below a class folder, such as "
            f"{first}, taken for that class"
        )
