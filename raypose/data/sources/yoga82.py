"""The lists of Yoga-82."""

from __future__ import annotations

from collections import Counter

from raypose import storage
from raypose.captions import taxonomy
from raypose.captions.taxonomy import Taxonomy
from raypose.data.sources import rules, text
from raypose.data.sources.listing import Entry, Listing
from raypose.errors import DataError

__all__ = ["list_source"]


def list_source(source: str, pictures: str, classes: Taxonomy | None) -> Listing:
    """Read a list of Yoga-82: ``folder/file.jpg,level 6,level 20,class``.

    Pictures that it names may be absent: most addresses behind them have gone.
    """
    cards = (classes or taxonomy.load("yoga82")).cards
    stats = storage.list_stats(pictures, recursive=True)
    there = {rules.composed(name): name for name in stats}
    listing, listed = Listing(source, may_miss=True), Counter[str]()
    above: dict[str, tuple[str, str]] = {}
    lines = text.read_lines(source)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, *levels = (part.strip() for part in line.rsplit(",", 3))
        path = rules.composed(text.slashed(path))
        where = f"{source}: line {number}"
        if len(levels) != 3 or min(map(rules.number_of, levels)) < 0 or "/" not in path:
            raise DataError(
                f"{where}: expected folder/file,level 6,level 20,class; found {line[:80]!r}"
            )
        folder, six, twenty, label = path.split("/")[0], *levels
        if int(label) >= len(cards) or cards[int(label)].id != folder:
            owner = cards[int(label)].id if int(label) < len(cards) else "none"
            raise DataError(f'{where}: folder "{folder}" is class {label}, which is "{owner}"')
        if above.setdefault(label, (six, twenty)) != (six, twenty):
            raise DataError(f"{where}: class {label} lies under two parents")
        listed[folder] += 1
        if path in there:
            listing.entries.append(Entry(path, folder, storage.join(pictures, there[path])))
    listing.listed = dict(sorted(listed.items()))
    listing.stamp = storage.sha256("\n".join(lines).encode())
    named = {there[entry.id] for entry in listing.entries}
    listing.stamp_files(sorted(({name: stats[name] for name in named}).items()))
    return listing
