"""One folder for each class."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.console import plural, status
from raypose.data.manifests import RECORDS
from raypose.data.sources import rules
from raypose.data.sources.listing import Entry, Listing, folders_in
from raypose.disks import NOWHERE, TWICE, Stat
from raypose.errors import DataError

__all__ = ["MAX_FILE_BYTES", "TOO_LARGE", "list_source"]

MAX_FILE_BYTES = 256 << 20
"""A file that is larger is no picture that could be decoded."""
TOO_LARGE = "too large for a picture: over 256 MiB"


FOLLOWED_NOT = {
    NOWHERE: "a link that leads nowhere",
    TWICE: "a link within a folder that is linked itself",
}


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List a folder: the class of a picture is the folder under it that it lies in, however deep.

    What is hidden, or in folders that tools make, is passed over; files that are no pictures and
    masks beside pictures are named as left out.

    Raises:
        DataError: where the folder holds sets, such as train and val, or one folder with the
            classes in it, or a class whose name is not UTF-8.
    """
    listing = Listing(source)
    names, links, reals, large = _names(listing, source)
    rules.refuse_sets(source, names, mend="pack each: raypose shards build {} DEST/{name}")
    _refuse_wrapping(source, names)
    wanted = {rules.drawn_from(name) for name in names} - {""}
    stems = {
        stem
        for name in names
        if (stem := name.rpartition(".")[0]) in wanted and rules.ending(name) in rules.PICTURES
    }
    deep = Counter[str]()
    below: dict[str, set[str]] = {}
    folder, labels = storage.join(source, ""), dict[str, str]()
    for name in names:
        label, slash, rest = name.partition("/")
        reason = _left_out(name, bool(slash), stems, links)
        if reason:
            listing.leave_out(name, reason)
            continue
        if name in large:
            listing.refuse(name, TOO_LARGE)
            continue
        inner, is_deep, _ = rest.rpartition("/")
        deep[label] += bool(is_deep)
        below.setdefault(label, set()).add(inner)
        key = rules.as_text(name)
        place = folder if key == name else storage.join(source, name)
        if label not in labels:
            labels[label] = _label(label, source)
        listing.entries.append(Entry(key, labels[label], place))
    _refuse_two_labels(source, names, links, reals)
    rules.tell_depth(source, deep.total(), next(iter(+deep), ""))
    _tell_alike(source, below)
    seen = {entry.label for entry in listing.entries}
    for name in folders_in(source):
        if labels.get(name) not in seen and name not in links:
            listing.leave_out(f"{name}/", "class folder holds no picture")
    return listing


class _Found(NamedTuple):
    """What is in a folder.

    Attributes:
        names: of files that are not passed over, sorted.
        links: name of a link that is not followed → why, as the `Stat` of it says.
        reals: name → path, of files that links lead to.
        large: names of files that are larger than any picture.
    """

    names: list[str]
    links: dict[str, int]
    reals: dict[str, str]
    large: set[str]


def _names(listing: Listing, source: str) -> _Found:
    """Go through a folder once, and stamp what counts."""
    found = _Found([], {}, {}, set())

    def kept() -> Iterator[tuple[str, Stat]]:
        for name, stat in storage.walk(source):
            if name.startswith("__"):
                listing.leave_out(name, "in a folder that a tool made")
            if not rules.is_passed_over(name):
                found.names.append(name)
                if stat.size < 0:
                    found.links[name] = stat.size
                elif stat.size > MAX_FILE_BYTES:
                    found.large.add(name)
                elif stat.real:
                    found.reals[name] = stat.real
                yield name, stat

    listing.stamp_files(kept())
    found.names.sort()
    return found


def _refuse_two_labels(
    source: str, names: Sequence[str], links: Mapping[str, int], reals: Mapping[str, str]
) -> None:
    """Refuse a picture that links put into two class folders.

    Raises:
        DataError: naming it.
    """
    wanted, root = set(reals.values()), storage.resolved(source)
    owner: dict[str, str] = {}
    for name in names if wanted else ():
        real = reals.get(name, f"{root}/{name}")
        if real in wanted and name not in links and not rules.is_other(name):
            other = owner.setdefault(real, name)
            if other.partition("/")[0] != name.partition("/")[0]:
                raise DataError(
                    f"{source}: {rules.as_text(other)} and {rules.as_text(name)} are one file, by "
                    "a link, in two class folders; keep one"
                )


def _tell_alike(source: str, below: Mapping[str, set[str]]) -> None:
    """Say that the folders in all class folders are called the same: they may be the classes."""
    alike = set.intersection(*below.values()) - {""} if len(below) > 1 else set()
    if len(alike) > 1:
        first = rules.as_text(min(alike))
        status(
            f"{source}: {plural(len(alike), 'folder')} are in each class folder, such as {first}; "
            "if they are the classes, pack each of the folders that they are in"
        )


def _left_out(name: str, in_folder: bool, stems: set[str], links: Mapping[str, int]) -> str:
    """Return why a file is no picture of a class; empty where it may be one."""
    if name in links:
        return FOLLOWED_NOT[links[name]]
    if not in_folder:
        return "not in a class folder"
    if f"/{RECORDS}/" in f"/{name}":
        return "of a build that was cut off"
    if rules.is_other(name):
        return "no picture by its name"
    return "drawn from the picture beside it" if rules.is_mask(name, stems) else ""


def _label(folder: str, source: str) -> str:
    if rules.as_text(folder) != folder:
        raise DataError(
            f"{source}: class folder {rules.as_text(folder)!r} has a name that is not UTF-8; "
            "rename it: convmv -f ENCODING -t utf-8 FOLDER"
        )
    try:
        label = rules.folder_label(folder)
    except rules.BadLabel as error:
        raise DataError(f"{source}: class folder {folder!r}: {error}; rename it") from None
    if not label:
        raise DataError(f"{source}: class folder {folder!r} has no name to be seen; rename it")
    return label


def _refuse_wrapping(source: str, names: Sequence[str]) -> None:
    """Refuse one folder that holds all others: its folders look like the classes."""
    below: dict[str, set[str]] = {}
    for name in names:
        first, *rest = name.split("/")
        if rest and not rules.is_other(name):
            below.setdefault(first, set()).add(rest[0] if len(rest) > 1 else "")
    for only, inner in below.items():
        if len(below) == 1 and only and len(inner) > 1 and "" not in inner:
            raise DataError(
                f"{source}: holds one folder, {only}, and its {len(inner)} folders look like "
                "classes; pack that: raypose shards build "
                f"{shlex.quote(storage.join(source, only))} DEST"
            )
