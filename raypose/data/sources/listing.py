"""What a source holds: where each picture lies, and what was left out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from raypose import storage
from raypose.data.manifests import MANIFEST, Rejected
from raypose.data.sources import rules
from raypose.disks import Stat
from raypose.errors import ConflictError, DataError

__all__ = ["COMPRESSED", "Entry", "Listing", "folders_in", "inside"]


class Entry(NamedTuple):
    """Where one picture lies.

    `offset` and `size` are bytes in a tar, a row and a row group of Parquet, or the seed and side
    of a drawing. Entries with the same `group` are read together. A `url` that ends in a slash is
    the folder that the picture lies in by its id: a million entries share it.
    """

    id: str
    label: str
    url: str
    offset: int = 0
    size: int = -1
    group: str = ""

    @property
    def place(self) -> str:
        """The location of the file that holds the picture."""
        return self.url + self.id if self.url.endswith("/") else self.url


@dataclass
class Listing:
    """What a source holds.

    Attributes:
        source: its location.
        entries: its pictures; ids are unique.
        rejected: what was seen to be unusable without reading it.
        num_refused: of these, pictures that there are and that cannot be used; the others, such as
            rows without a label, are no pictures of a class.
        listed: pictures of each class that a list names, where there is a list.
        may_miss: pictures that are named may not be there.
        as_they_are: pictures of a data set of ours, of which none is left out, whatever it is like.
        places: that are read, and so may not be written to.
        folders: that files which are read lie in, and so may not be written over.
        containers: files that are read in places, as they were when it was told where.
        group_bytes: of each group, all its pictures together.
        stamp: changes when a file of the source does.
    """

    source: str
    entries: list[Entry] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    num_refused: int = 0
    listed: dict[str, int] = field(default_factory=dict)
    may_miss: bool = False
    as_they_are: bool = False
    places: tuple[str, ...] = ()
    folders: set[str] = field(default_factory=set)
    containers: dict[str, Stat] = field(default_factory=dict)
    group_bytes: dict[str, int] = field(default_factory=dict)
    stamp: str = ""

    def leave_out(self, name: str, reason: str) -> None:
        """Note what is no picture of a class."""
        self.rejected.append(Rejected(rules.as_text(name), reason))

    def refuse(self, name: str, reason: str) -> None:
        """Leave a picture out that there is, and that cannot be used."""
        self.leave_out(name, reason)
        self.num_refused += 1

    def stamp_files(self, files: Iterable[tuple[str, Stat]]) -> None:
        """Note sizes and times of files, so that a build that goes on sees if they change.

        Args:
            files: in an order that is the same for the same files.
        """
        digest = hashlib.sha256(self.stamp.encode())
        for name, stat in files:
            digest.update(f"{name}\0{stat}\n".encode("utf-8", "surrogateescape"))
            if stat.real:
                self.folders.add(stat.real.rpartition("/")[0])
        self.stamp = digest.hexdigest()

    def stamp_containers(self, files: Mapping[str, Stat]) -> None:
        """Note files, by their locations, that are read in places; see `stamp_files`."""
        self.containers = dict(files)
        self.stamp_files(sorted(files.items()))

    def tell_beside(self, loose: Iterable[str]) -> None:
        """Name what lies loose beside files that are read in places."""
        for name in loose:
            self.leave_out(name, "beside the files that are read, and not in one")

    def check_unchanged(self) -> None:
        """Refuse what was read from files that were not, or not all the time, those listed.

        Raises:
            ConflictError: naming a file that has changed since.
        """
        folders = {url.rpartition("/")[0] for url in self.containers}
        now = {
            storage.join(folder, name): stat
            for folder in folders
            for name, stat in storage.list_stats(folder).items()
        }
        for url, stat in self.containers.items():
            if (now.get(url) or storage.stat(url)) != stat:  # a hidden one is not listed
                raise ConflictError(
                    f"{url}: has changed since it was listed; give the command again"
                )


COMPRESSED = (
    ".7z", ".parquet.gz", ".parquet.zst", ".rar", ".tar.bz2", ".tar.gz", ".tar.lz4", ".tar.xz",
    ".tar.zst", ".tbz", ".tbz2", ".tgz", ".txz", ".tzst", ".zip",
)  # fmt: skip


def inside(place: str, ending: str) -> tuple[dict[str, Stat], list[str]]:
    """Return the locations of the files with an ending, in any case of letters, in a folder.

    Also return the names of what lies loose beside them, and may be a picture or hold some.

    Args:
        place: of the folder, or of one such file.
        ending: with its dot.

    Raises:
        DataError: for a link that leads nowhere, what may hold more pictures and is compressed, or
            more such files in folders below.
    """
    above, _, name = place.rpartition("/")
    if name.lower().endswith(ending) and (stat := storage.stat(place)):
        return {place: storage.list_stats(above or "/").get(name, stat)}, []
    there = dict(sorted(storage.list_stats(place).items()))
    found = {
        storage.join(place, name): stat
        for name, stat in there.items()
        if name.lower().endswith(ending)
    }
    for name in there if found else ():
        if name.lower().endswith(COMPRESSED):
            raise DataError(
                f"{storage.join(place, name)}: compressed, and beside files of {ending}; unpack "
                "it, or move it elsewhere"
            )
    nowhere = [url for url, stat in found.items() if stat.size < 0]
    if nowhere:
        raise DataError(f"{nowhere[0]}: a link that leads nowhere; mend or remove it")
    if found and MANIFEST not in there:
        _refuse_deeper(place, ending)
    return found, [
        name
        for name in there
        if not (name.lower().endswith(ending) or rules.is_passed_over(name))
        and (rules.ending(name) in rules.PICTURES or not rules.is_other(name))
    ]


def folders_in(place: str) -> list[str]:
    """Return the names of the folders in a folder that are not passed over, sorted."""
    return [name for name in storage.list_folders(place) if not rules.is_passed_over(f"{name}/x")]


def _refuse_deeper(place: str, ending: str) -> None:
    """Refuse a folder with files of an ending that has more of them in its folders.

    Raises:
        DataError: naming one.
    """
    for folder in folders_in(place):
        for name, _ in storage.walk(storage.join(place, folder)):
            if name.lower().endswith((ending, *COMPRESSED)) and not rules.is_passed_over(name):
                raise DataError(
                    f"{place}: holds files of {ending}, and more in folders below, such as "
                    f"{rules.as_text(f'{folder}/{name}')}; put them in one folder, or pack each"
                )
