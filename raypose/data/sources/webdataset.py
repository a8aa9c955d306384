"""Tars in the form of WebDataset: a picture with its label beside it, or in a class folder.

What stands beside a picture has its name with another ending: of ``yoga.1.jpg`` the label is in
``yoga.1.cls``. Where a sample has one picture only, its key may also end at the first dot, as
WebDataset's own do: ``7.image.jpg`` with ``7.cls``. Where labels are beside pictures, in whatever
tar of a source, a picture without has none, unless it has a ``.json`` that says nothing of labels.
Elsewhere the class is the first folder below those that all pictures are in.
"""

from __future__ import annotations

import codecs
import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.console import status
from raypose.data.sources import rules, text
from raypose.data.sources.listing import Entry, Listing, inside
from raypose.errors import DataError

__all__ = ["list_source"]

LABELLED = (".cls", ".json")
AGAIN = "its name stands in the tar again, further on, and the last one counts"
POSES = ("posture", "pose")
"""Keys that may hold the places of joints, rather than a label."""
AGREEING = 0.9
"""Of the pictures of a class number that have a name beside it too."""
MAX_LINKS = 40
"""That lead to one another, as Linux has it."""
LABEL_BYTES = 16 << 20
"""A file beside a picture that is larger holds no label."""


class _Member(NamedTuple):
    """A picture of a tar: its name there, without the ending too, and where it lies."""

    name: str
    stem: str
    entry: Entry

    @property
    def folders(self) -> list[str]:
        """Those above it."""
        return [part for part in self.name.split("/")[:-1] if part not in ("", ".")]


class _Labelled(NamedTuple):
    """A picture, and what is said of it beside it.

    Attributes:
        member: the picture.
        labels: beside it.
        silent: it has a .json that says nothing of labels, where no .cls is in use.
        denied: it is said to have no label.
    """

    member: _Member
    labels: set[str]
    silent: bool
    denied: bool


@dataclass
class _Tar:
    """What was seen in a tar.

    Attributes:
        pictures: by their names, in their order.
        told: name of a file that may hold a label → the label; empty for none, None where a .json
            says nothing of labels.
        labels: stem → the labels beside it.
        marked: folders with labels beside pictures, be they none → the endings of those files.
        damaged: name of a file that may hold a label → what is wrong with it.
        links: name → name of what it leads to.
    """

    pictures: dict[str, _Member] = field(default_factory=dict)
    told: dict[str, str | None] = field(default_factory=dict)
    damaged: dict[str, DataError] = field(default_factory=dict)
    labels: dict[str, set[str]] = field(default_factory=dict)
    marked: dict[str, set[str]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """List the members of a tar, or of the tars of a folder, in one pass over each.

    Raises:
        DataError: where a tar is damaged or cut off, holds sets, such as train and val, or a label
            that is none.
    """
    listing = Listing(source)
    tars, loose = inside(source, ".tar")
    listing.stamp_containers(tars)
    listing.tell_beside(loose)
    rules.refuse_named_sets(source, tars)
    found: list[_Labelled] = []
    marked = linked = False
    for url in tars or [source]:
        tar = _listed(listing, url, f"{PurePosixPath(url).stem}/" if len(tars) > 1 else "")
        marked, linked = marked or bool(tar.marked), linked or bool(tar.links)
        found += _labelled(tar)
    rules.refuse_sets(source, [one.member.name for one in found], mend="unpack it, and pack each")
    by_folder = [one.member for one in found if not one.labels and (one.silent or not marked)]
    folders = _class_folders(source, by_folder, num_tars=len(tars))
    names = _names_of_numbers(source, [one.labels for one in found])
    for member, labels, _, denied in found:
        labels = {names.get(label, label) for label in labels}
        told = folders.get(member.entry.id, "")
        if marked and member.folders and not (labels or told or denied):
            reason = "has no label beside it, where other pictures have one"
            listing.refuse(member.entry.id, reason)
        else:
            _enter(listing, member.entry, labels, told)
    if linked:
        _refuse_two_labels(listing)
    return listing


def _listed(listing: Listing, url: str, prefix: str) -> _Tar:
    """Go through a tar once; of names that stand there again the last counts, as unpacked."""
    tar = _Tar()
    for member, content in _members(url):
        name = member.name.removeprefix("./")
        ending = rules.ending(name)
        if rules.is_passed_over(name):
            continue
        if ".." in name.split("/"):
            listing.refuse(prefix + name, "its name leads out of the tar; pack it anew")
            continue
        if member.issym() or member.islnk():
            above = posixpath.dirname(name) if member.issym() else ""
            target = posixpath.normpath(posixpath.join(above, member.linkname))
            if target == posixpath.normpath(name):  # so does tar store what it is given twice
                listing.leave_out(prefix + name, AGAIN)
                continue
            _forget(listing, tar, name, prefix)
            tar.links[name] = target
            continue
        if not member.isfile():
            continue
        if member.issparse():
            listing.refuse(prefix + name, "is stored with holes; pack it anew without --sparse")
            continue
        _forget(listing, tar, name, prefix)
        if content is not None:
            try:
                tar.told[name] = _label_in(content, name, where=f"{url}: {name}")
            except DataError as error:  # it may be beside no picture
                tar.damaged[name] = error
        elif ending in rules.PICTURES or not rules.is_other(name):
            tar.pictures[name] = _placed(name, prefix, url, member.offset_data, member.size)
        elif ending not in LABELLED:
            listing.leave_out(prefix + name, "no picture by its name")
    _settle(listing, tar, prefix)
    return tar


def _forget(listing: Listing, tar: _Tar, name: str, prefix: str) -> None:
    """Let go of what had a name before, and say so."""
    if tar.pictures.pop(name, None):
        listing.refuse(prefix + name, AGAIN)
    elif name in tar.told or name in tar.damaged or name in tar.links:
        listing.leave_out(prefix + name, AGAIN)
    tar.told.pop(name, None)
    tar.damaged.pop(name, None)
    tar.links.pop(name, None)


def _placed(name: str, prefix: str, url: str, offset: int, size: int) -> _Member:
    ending = rules.ending(name)
    entry = Entry(rules.as_text(prefix + name), "", url, offset, size)
    return _Member(name, name[: -len(ending)] if ending else name, entry)


def _settle(listing: Listing, tar: _Tar, prefix: str) -> None:
    """Follow the links of a tar, and drop what is beside a picture: other data, masks."""
    others = {name for name in tar.pictures if rules.ending(name) not in rules.PICTURES}
    there = {posixpath.normpath(name): member.entry for name, member in tar.pictures.items()}
    told = {posixpath.normpath(name): label for name, label in tar.told.items()}
    links = {posixpath.normpath(name): target for name, target in tar.links.items()}
    for name, target in tar.links.items():
        target = _end(target, links)
        entry = there.get(target)
        if entry:
            tar.pictures[name] = _placed(name, prefix, entry.url, entry.offset, entry.size)
        elif target in told and rules.ending(name) in LABELLED:
            tar.told[name] = told[target]
        elif rules.ending(name) in LABELLED:
            tar.told[name] = ""
            listing.refuse(prefix + name, "a link that leads to no label of the tar")
        else:
            listing.leave_out(prefix + name, "a link that leads to no picture of the tar")
    _mark(tar)
    stems = {member.stem for name, member in tar.pictures.items() if name not in others}
    kept = {}
    for name, member in tar.pictures.items():
        if name in others and ({member.stem, _first_key(member.stem)} & stems):
            # what WebDataset puts beside a picture, of any ending
            listing.leave_out(member.entry.id, "beside a picture, and none by its name")
            continue
        if member.stem not in tar.labels and rules.is_mask(f"{member.stem}.", stems):
            listing.leave_out(member.entry.id, "drawn from the picture beside it")
            continue
        kept[name] = member
    tar.pictures = kept


def _end(target: str, links: Mapping[str, str]) -> str:
    """Return what a link leads to at last, where links lead to links; they may go in a circle."""
    for _ in range(MAX_LINKS):
        if target not in links:
            break
        target = links[target]
    return target


def _mark(tar: _Tar) -> None:
    """Note the labels by the pictures that they are beside."""
    stems = [member.stem for member in tar.pictures.values()]
    keys = {key for stem in stems for key in (stem, _first_key(stem))}

    def key_of(name: str) -> str:
        stem = name.rpartition(".")[0]
        return stem if stem in keys else _first_key(stem)

    for name, error in tar.damaged.items():
        if key_of(name) in keys:
            raise error
    for name, label in tar.told.items():
        key = key_of(name)
        if label is None or key not in keys:
            continue
        tar.marked.setdefault(name.rpartition("/")[0], set()).add(rules.ending(name))
        if label:
            tar.labels.setdefault(key, set()).add(label)


def _labelled(tar: _Tar) -> Iterator[_Labelled]:
    """Yield the pictures of a tar with what is said of them beside them."""
    counts = Counter(_first_key(member.stem) for member in tar.pictures.values())
    for member in tar.pictures.values():
        first = _first_key(member.stem)
        labels = tar.labels.get(member.stem)
        labels = labels or (tar.labels.get(first, set()) if counts[first] == 1 else set())
        bare = (tar.told.get(f"{key}.json", "") for key in (member.stem, first))
        silent = None in bare and ".cls" not in tar.marked.get(member.name.rpartition("/")[0], ())
        denied = any(tar.told.get(f"{member.stem}{ending}") == "" for ending in LABELLED)
        yield _Labelled(member, labels, silent, denied)


def _class_folders(source: str, members: list[_Member], *, num_tars: int) -> dict[str, str]:
    """Return the class folders of pictures by their ids: the first below those that all are in.

    Raises:
        DataError: where one folder holds all others, or is all that there is.
    """
    inside = [member for member in members if member.folders]
    if not inside:
        return {}
    first, depth = inside[0].folders, 0
    while all(member.folders[depth] == first[depth] for member in inside):
        deeper = [member for member in inside if len(member.folders) > depth + 1]
        num_beside = len(inside) - len(deeper)
        if not deeper or num_beside > max(1, len(inside) // 100):
            break
        inside, first, depth = deeper, deeper[0].folders, depth + 1  # a cover has no class
    if depth:
        status(f"{source}: classes are the folders in {'/'.join(first[:depth])}/")
    found = {member.entry.id: member.folders[depth] for member in inside}
    below = {member.folders[depth + 1] for member in inside if len(member.folders) > depth + 1}
    only = next(iter(set(found.values())), "")
    if len(set(found.values())) == 1 and (len(below) > 1 or num_tars > 1):
        raise DataError(
            f"{source}: all pictures are in one folder, {only}, so that it says no class; put them "
            "in class folders, or a label beside each"
        )
    deep = [member for member in inside if len(member.folders) > depth + 1]
    rules.tell_depth(source, len(deep), found[deep[0].entry.id] if deep else "")
    return found


def _names_of_numbers(source: str, found: Iterable[set[str]]) -> dict[str, str]:
    """Return class number → name, where pictures have both beside them and nearly all agree.

    A picture that disagrees has two labels then, and is refused.
    """
    names: dict[str, Counter[str]] = {}
    for labels in found:
        numbers = [label for label in labels if rules.number_of(label) >= 0]
        if len(labels) == 2 and len(numbers) == 1:
            names.setdefault(numbers[0], Counter()).update(labels - {*numbers})
    best = {number: some.most_common(1)[0] for number, some in names.items()}
    told = {
        number: name
        for number, (name, count) in best.items()
        if count >= AGREEING * names[number].total()
        and sum(other == name for other, _ in best.values()) == 1
    }
    if told:
        number, name = next(iter(told.items()))
        status(f"{source}: class numbers and names are beside pictures, such as {number}, {name}")
    return told


def _refuse_two_labels(listing: Listing) -> None:
    """Refuse a picture that a link puts under another label.

    Raises:
        DataError: naming it.
    """
    label_of: dict[tuple[str, int], Entry] = {}
    for entry in listing.entries:
        other = label_of.setdefault((entry.url, entry.offset), entry)
        if other.label != entry.label:
            raise DataError(
                f'{listing.source}: {entry.id} is "{entry.label}", and a link to {other.id}, which '
                f'is "{other.label}"; keep one'
            )


def _enter(listing: Listing, entry: Entry, labels: set[str], folder: str) -> None:
    """Enter a picture under its label: what stands beside it, or its folder."""
    if len(labels) > 1:
        both = " and ".join(sorted(labels))
        listing.refuse(entry.id, f"has two labels beside it, {both}; keep one")
        return
    try:
        label = next(iter(labels), "") or rules.folder_label(folder)
    except rules.BadLabel as error:
        listing.refuse(entry.id, str(error))
        return
    if label:
        listing.entries.append(entry._replace(label=label))
    else:
        listing.leave_out(entry.id, "has no label: no .cls or .json beside it, and no folder")


def _first_key(stem: str) -> str:
    """Return what stands before the first dot of a name, as WebDataset cuts it."""
    above, slash, name = stem.rpartition("/")
    return f"{above}{slash}{name.partition('.')[0]}"


def _members(tar: str) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield what is in a tar in one pass, with the content of files that hold labels."""
    name, count = "its first file", 0
    try:
        with storage.open_stream(tar) as (stream, num_bytes):
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # they pile up otherwise
                    name, count = member.name, count + member.isfile()
                    stored = member.isfile() and not member.issparse()
                    # the next header would lie there; to seek beyond the end takes for ever
                    if not member.offset_data <= archive.offset <= num_bytes or member.size < 0:
                        raise tarfile.ReadError("unexpected end of data")
                    labelled = stored and rules.ending(member.name) in LABELLED
                    if labelled and member.size > LABEL_BYTES:
                        raise tarfile.ReadError(f"{member.size} bytes are no label")
                    file = archive.extractfile(member) if labelled else None
                    yield member, file.read() if file else None
                if archive.offset + tarfile.BLOCKSIZE > num_bytes:  # a whole one ends with zeros
                    raise tarfile.ReadError("unexpected end of data")
                while rest := archive.fileobj.read(1 << 20):
                    if rest.strip(b"\0"):
                        raise tarfile.ReadError("more behind its end; tar -A puts tars together")
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise DataError(
            f"{tar}: cut off or damaged at {rules.as_text(name)}, after {count} files ({error}); "
            "fetch it again"
        ) from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping of JSON.

    Raises:
        BadLabel: where what may be its label stands there twice.
    """
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    for key in twice:
        if key in rules.LABEL_COLUMNS:
            raise rules.BadLabel(f"{key} stands there twice")
    return dict(pairs)


def _label_in(content: bytes, name: str, *, where: str) -> str | None:
    """Return the label that a file beside a picture holds: empty for none; None if unsaid."""
    where = rules.as_text(where)
    try:
        if b"\0" in content and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise rules.BadLabel("its label holds zero bytes")
        if rules.ending(name) == ".cls":
            return rules.label_of(text.decoded(content, where=where))
        document = json.loads(text.decoded(content, where=where), object_pairs_hook=_once)
        found = document if isinstance(document, Mapping) else {}
        given = [
            found[key]
            for key in rules.LABEL_COLUMNS
            if key in found and not (key in POSES and isinstance(found[key], list | dict | None))
        ]
        first = next((value for value in given if value is not None), None)
        return rules.label_of(first) if given else None
    except rules.BadLabel as error:
        raise DataError(f"{where}: {error}; mend it, or take it out") from None
    except ValueError as error:  # numbers of thousands of digits too
        raise DataError(f"{where}: not JSON ({error}); mend it, or take it out") from None
    except RecursionError:
        raise DataError(f"{where}: not JSON (nested too deep); take it out") from None
