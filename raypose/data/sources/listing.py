"""What a source holds: where each picture lies, and what was left out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from raypose import storage
from raypose.data.manifests import Rejected
from raypose.disks import Stat

__all__ = ["Entry", "Listing", "inside"]


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
        places: that are read, and so may not be written to.
        group_bytes: of each group, all its pictures together.
        stamp: changes when a file of the source does.
    """

    source: str
    entries: list[Entry] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    num_refused: int = 0
    listed: dict[str, int] = field(default_factory=dict)
    may_miss: bool = False
    places: tuple[str, ...] = ()
    group_bytes: dict[str, int] = field(default_factory=dict)
    stamp: str = ""

    def refuse(self, name: str, reason: str) -> None:
        """Leave a picture out that there is, and that cannot be used."""
        self.rejected.append(Rejected(name, reason))
        self.num_refused += 1

    def stamp_files(self, files: Iterable[tuple[str, Stat]]) -> None:
        """Note sizes and times of files, so that a build that goes on sees if they change.

        Args:
            files: in an order that is the same for the same files.
        """
        digest = hashlib.sha256(self.stamp.encode())
        for name, stat in files:
            digest.update(f"{name}\0{stat}\n".encode("utf-8", "surrogateescape"))
        self.stamp = digest.hexdigest()


def inside(folder: str, ending: str) -> dict[str, Stat]:
    """Return the locations of a folder's files with an ending, in any case of letters."""
    return {
        storage.join(folder, name): stat
        for name, stat in sorted(storage.list_stats(folder).items())
        if name.lower().endswith(ending)
    }
