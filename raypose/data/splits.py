"""Splits that are honest: stratified, seeded, by example id, and with near-duplicates on one side.

Each class gives its share of every split. Pictures without a twin go first, so that those tested on
are all different; groups of twins move as one, and into a test only where singles do not suffice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from raypose import storage
from raypose.config import Packing
from raypose.data import claims, sources
from raypose.data.inspection import Row
from raypose.data.manifests import MANIFEST, RECORDS, Manifest, read_manifest
from raypose.data.packing import Run, packed, serial
from raypose.errors import DataError, NotFoundError

__all__ = ["Split", "assign", "check_shares", "write"]

REST = "train"
REPORT = "split.json"


@dataclass(frozen=True)
class Split:
    """Which picture goes where.

    Attributes:
        parts: id → part, such as train or val.
        groups: ids of each group of twins.
    """

    parts: Mapping[str, str]
    groups: Sequence[Sequence[str]]

    def lacking(self, rows: Sequence[Row], parts: Sequence[str]) -> dict[str, list[str]]:
        """Return part → classes that have pictures, and none in it: twins may not be parted."""
        labels = {row.label for row in rows}
        there = {(self.parts[row.id], row.label) for row in rows}
        found = {
            part: sorted(label for label in labels if (part, label) not in there)
            for part in (REST, *parts)
        }
        return {part: absent for part, absent in found.items() if absent}

    def counts(self) -> dict[str, int]:
        """Return the pictures of each part."""
        return dict(Counter(self.parts.values()))


def assign(
    rows: Sequence[Row],
    groups: Sequence[Sequence[int]],
    *,
    shares: Mapping[str, float],
    seed: int = 0,
) -> Split:
    """Decide which picture goes where.

    Args:
        rows: of `inspection.inspect`.
        groups: of `inspection.cluster`.
        shares: part → share in 0..1; what is left is the training part. A class with as many
            pictures as there are parts, or more, gives at least one to each, twins permitting.
        seed: of the draw.
    """
    check_shares(shares)
    sizes = Counter(row.label for row in rows)
    quota = {
        (part, label): count
        for label, size in sizes.items()
        for part, count in _quota(size, shares).items()
    }
    twinned = {number for group in groups for number in group}
    units = [[number] for number in range(len(rows)) if number not in twinned]
    units += [sorted(group) for group in groups]

    def key(unit: Sequence[int]) -> tuple[int, str]:
        name = min(rows[number].id for number in unit)
        return len(unit), storage.sha256(f"{seed}/{name}".encode())

    parts: dict[str, str] = {}
    for unit in sorted(units, key=key):
        needs = Counter(rows[number].label for number in unit)
        fits = (
            part
            for part in shares
            if all(quota[part, label] >= count for label, count in needs.items())
        )
        part = next(fits, REST)
        for label, count in needs.items():
            if part != REST:
                quota[part, label] -= count
        parts.update((rows[number].id, part) for number in unit)
    return Split(parts, [[rows[number].id for number in group] for group in groups])


def _quota(size: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many pictures of a class each part gets: one at least where there are enough.

    One picture at least is left to train on.
    """
    least = 1 if size > len(shares) else 0
    found = {
        part: max(round(share * size), least if share else 0) for part, share in shares.items()
    }
    while sum(found.values()) > max(0, size - 1):
        largest = max(found, key=lambda part: found[part])
        found[largest] -= 1
    return found


def check_shares(shares: Mapping[str, float]) -> None:
    """Refuse shares that leave nothing to train on.

    Raises:
        DataError: naming their sum.
    """
    if sum(shares.values()) >= 1:
        raise DataError(f"split: shares add up to {sum(shares.values()):g}; leave some to train on")


def write(
    source: str,
    dest: str,
    split: Split,
    packing: Packing,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    run: Run = serial,
) -> dict[str, Manifest]:
    """Write each part of a data set as one of its own, ``dest/train`` and so on, and a report.

    Args:
        source: the data set.
        dest: folder for the parts.
        split: of its pictures.
        packing: how.
        overwrite: replace parts that are there.
        progress: called with (pictures done, in all).
        run: runs the tasks.
    """
    listing = replace(sources.find(source, kind="parquet"), as_they_are=True)
    for part in {REST, "val", "test", *split.counts()}:
        if storage.overlap(storage.join(dest, part), source):
            raise DataError(
                f"{storage.join(dest, part)}: overlaps what is split, {source}; choose another DEST"
            )
    _check_report(dest, overwrite=overwrite)
    done = 0
    closing: dict[str, Callable[[], Manifest]] = {}
    with ExitStack() as held:  # all parts are written before one of them is replaced
        for part in sorted(split.counts()):
            entries = [entry for entry in listing.entries if split.parts[entry.id] == part]

            def update(some: int, total: int, before: int = done) -> None:
                progress(before + some, len(listing.entries))

            closing[part] = held.enter_context(
                packed(
                    replace(listing, entries=entries, rejected=[], num_refused=0),
                    storage.join(dest, part),
                    packing,
                    overwrite=overwrite,
                    progress=update,
                    run=run,
                )
            )
            done += len(entries)
        stale = _stale(dest, closing, overwrite=overwrite)
        for url in stale:
            held.enter_context(claims.hold(storage.join(url, RECORDS), what=url))
        written = {part: close() for part, close in closing.items()}
        for url, manifest in stale.items():
            storage.delete_file(storage.join(url, MANIFEST))
            for shard in manifest.shards:
                storage.delete_file(storage.join(url, shard.name))
            storage.prune(url)
    storage.write_json(storage.join(dest, REPORT), _report(source, split, packing, written))
    return written


def _check_report(dest: str, *, overwrite: bool) -> None:
    """Refuse to write the report over somebody else's file.

    Raises:
        DataError: naming it.
    """
    url = storage.join(dest, REPORT)
    if not storage.exists(url):
        return
    try:
        found = storage.read_json(url)
    except DataError:
        found = None
    if not isinstance(found, dict) or not {"source", "parts", "groups"} <= found.keys():
        raise DataError(f"{url}: is not of a split; choose another DEST, or move it")
    if not overwrite:
        raise DataError(f"{dest}: already holds a split; choose another DEST, or overwrite=true")


def _stale(dest: str, parts: Collection[str], *, overwrite: bool) -> dict[str, Manifest]:
    """Return the parts of an earlier split that this one has not: their pictures are in others now.

    Raises:
        DataError: where they may not be replaced.
    """
    found = {}
    for part in {REST, "val", "test"} - {*parts}:
        url = storage.join(dest, part)
        with suppress(NotFoundError):
            found[url] = read_manifest(url)
            if storage.is_link(url):
                raise DataError(f"{url}: is a link to another data set; remove it")
    if found and not overwrite:
        url = min(found)
        raise DataError(f"{url}: is of another split, and shares pictures; give overwrite=true")
    return found


def _report(
    source: str, split: Split, packing: Packing, written: Mapping[str, Manifest]
) -> dict[str, Any]:
    return {
        "source": source,
        "seed": packing.seed,
        "parts": {part: manifest.labels for part, manifest in written.items()},
        "groups": [list(group) for group in split.groups],
    }
