"""Pictures of any source → shards: packing, on as many machines as there are.

Rows are in an order shuffled by seed, so that any run of rows is a fair sample. Bad pictures are
left out and named, up to a share of all; one that could not be read ends the build, which may be
gone on with. Packing is cut into tasks that depend on nothing but the plan: they run in any order,
anywhere, and each leaves a record, from which a build that was cut off goes on. Shards bear the
digest of what they hold, and MANIFEST.json comes last: what is there stays until it is replaced.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from typing import Any, TypeVar

import numpy as np

from raypose import storage
from raypose.config import Packing
from raypose.console import status
from raypose.data import claims, records, sources
from raypose.data.manifests import (
    MANIFEST,
    RECORDS,
    Manifest,
    Rejected,
    Shard,
    read_tagged_manifest,
)
from raypose.data.sources import Entry, Listing
from raypose.data.tasks import Task, pack_task
from raypose.errors import ConflictError, DataError, NotFoundError, StorageError

__all__ = ["Run", "build", "pack", "packed", "serial"]

AS_IT_IS = Packing()


T = TypeVar("T")


MIXED_BYTES, MIXED_ROWS = 512 << 20, 100_000
"""Of the Parquet row groups that a task reads together, to mix their rows."""


Run = Callable[[Callable[..., Any], Sequence[Any], Any], Iterator[Any]]
"""(function, tasks, what all of them need) → results in any order: see `serial`."""


def serial(function: Callable[..., Any], tasks: Sequence[Any], common: Any) -> Iterator[Any]:
    """Run tasks one after another in this process; on a cluster, `runtime.spread` does it."""
    for task in tasks:
        yield function(task, common)


def build(
    source: str,
    dest: str,
    packing: Packing = AS_IT_IS,
    **how: Any,
) -> Manifest:
    """Pack a source whose kind shows in its names: `sources.find`, then `pack` as `how` says."""
    return pack(sources.find(source), dest, packing, **how)


def pack(
    listing: Listing,
    dest: str,
    packing: Packing = AS_IT_IS,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    run: Run = serial,
) -> Manifest:
    """Pack what a source lists into shards, going on where an earlier build was cut off.

    A data set that is there is replaced when the new one is whole, and its files go after that.

    Args:
        listing: of the source.
        dest: folder or s3:// URL to write to.
        packing: how.
        overwrite: replace a data set that is there.
        progress: called with (pictures done, in all).
        run: runs the tasks.

    Raises:
        DataError: where `dest` is taken or overlaps the source, or too many pictures are unusable.
        ConflictError: where another builds there, or has, or the source has changed meanwhile.
        StorageError: where a picture could not be read or a shard not written; what is done stays.
    """
    with packed(listing, dest, packing, overwrite=overwrite, progress=progress, run=run) as close:
        return close()


@contextmanager
def packed(
    listing: Listing,
    dest: str,
    packing: Packing,
    *,
    overwrite: bool,
    progress: Callable[[int, int], None],
    run: Run,
) -> Iterator[Callable[[], Manifest]]:
    """Write the shards of a data set; yields what closes it, before which nothing is replaced.

    So are several packed that are to change together: see `pack`.
    """
    _check_apart(listing, dest)
    tasks, plan = _plan(listing, packing), records.identity(listing, packing)
    wanted = {task.first: task.labels for task in tasks}

    def is_ours(found: Manifest) -> bool:
        """Tell whether a data set is this one, whose build ended between its last two steps."""
        done = records.read(dest, plan, wanted) or {}
        return len(done) == len(tasks) and found == _closed(listing, [done[k] for k in wanted])

    def find_room() -> tuple[Manifest, str] | None:
        return _find_room(dest, overwrite=overwrite, ours=is_ours)

    if storage.is_file(dest):
        raise DataError(f"{dest}: is a file; DEST is a folder, which is made")
    find_room()
    begun = time.time()
    with claims.hold(storage.join(dest, RECORDS), what=dest) as check:
        before = find_room()  # nobody closes it from here on
        done = records.resume(dest, plan, wanted)
        num_done = sum(record.num_read for record in done.values())
        how = (dest, packing, listing.may_miss, listing.as_they_are)
        todo = [task for task in tasks if task.first not in done]
        try:
            for first, record in run(pack_task, todo, how):
                check()
                done[first] = record
                num_done += record.num_read
                progress(num_done, len(listing.entries))
        except StorageError as error:
            kept = f"; {num_done} of {len(listing.entries)} pictures are done and kept"
            again = "" if isinstance(error, ConflictError) else "; give the command again to go on"
            raise type(error)(f"{error}{kept}{again}") from None
        manifest = _closed(listing, [done[task.first] for task in tasks])
        _check_bad(listing, manifest, dest, packing)
        listing.check_unchanged()

        def close() -> Manifest:
            check()
            _close(dest, manifest, before)
            try:
                records.sweep(dest, manifest, before[0] if before else None, begun=begun)
            except StorageError as error:  # nobody reads what the manifest does not list
                beside = "the data set is whole, with files beside it that it needs no more"
                status(f"{error}; {beside}")
            return manifest

        yield close


def _check_apart(listing: Listing, dest: str) -> None:
    """Refuse to write into what is read, or over the files that it names."""
    for place in listing.places:
        if storage.overlap(place, dest):
            raise DataError(f"{dest}: overlaps the source, {place}; choose a place beside it")
    for folder in listing.folders:
        if storage.holds(dest, folder):
            raise DataError(f"{dest}: holds files of the source, in {folder}; choose another place")


def _plan(listing: Listing, packing: Packing) -> list[Task]:
    """Cut entries into tasks, in an order shuffled by seed.

    Files and members of tars are drawn from anywhere. Parquet is read by row groups, so that these
    are drawn at random, and the rows of as many as memory holds are mixed.
    """

    def key(name: str) -> int:
        content = f"{packing.seed}/{name}".encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")

    size = packing.rows_per_shard
    alone = [entry for entry in listing.entries if not entry.group]
    keys = np.fromiter((key(entry.id) for entry in alone), np.uint64, len(alone))
    alone = [alone[k] for k in np.argsort(keys, kind="stable")]
    tasks = [[some] for some in _batched(alone, size)]
    groups: dict[str, list[Entry]] = {}
    for entry in listing.entries:
        if entry.group:
            groups.setdefault(entry.group, []).append(entry)
    together: list[Entry] = []
    held = 0
    order = sorted(groups, key=key)
    for name in order:
        together += groups[name]
        held += listing.group_bytes.get(name, 0)
        if held >= MIXED_BYTES or len(together) >= MIXED_ROWS or name == order[-1]:
            together.sort(key=lambda entry: key(entry.id))
            tasks.append(list(_batched(together, size)))
            together, held = [], 0
    firsts = [0, *accumulate(len(shards) for shards in tasks)]
    return [Task(first, shards) for first, shards in zip(firsts, tasks, strict=False)]


def _find_room(
    dest: str, *, overwrite: bool, ours: Callable[[Manifest], bool]
) -> tuple[Manifest, str] | None:
    """Return the data set that is there, which may be replaced or is ours, and its tag.

    Raises:
        DataError: where it may not.
    """
    try:
        found = read_tagged_manifest(dest)
    except NotFoundError:
        records.check_room(dest, overwrite=overwrite)
        return None
    if not overwrite and not ours(found[0]):
        raise DataError(f"{dest}: already holds a data set; choose another, or overwrite=true")
    return found


def _closed(listing: Listing, done: Iterable[records.Record]) -> Manifest:
    labels: Counter[str] = Counter()
    shards: list[Shard] = []
    rejected = list(listing.rejected)
    for record in done:
        labels.update(record.labels)
        shards += record.shards
        rejected += record.rejected
    return Manifest(
        num_rows=sum(labels.values()),
        labels=dict(sorted(labels.items())),
        shards=tuple(shards),
        rejected=tuple(rejected),
        listed=listing.listed or None,
        source=listing.source,
    )


def _check_bad(listing: Listing, manifest: Manifest, dest: str, packing: Packing) -> None:
    """Refuse to close a data set without the pictures that it was to hold."""
    found = manifest.rejected[len(listing.rejected) :]
    refused = [*found, *listing.rejected] if listing.num_refused else [*found]
    num_bad = len(found) + listing.num_refused
    total = len(listing.entries) + listing.num_refused
    if not manifest.shards:
        raise DataError(
            f"{dest}: nothing to pack: all {total} pictures of {listing.source} were left out"
            f"{_first(refused)}"
        )
    if num_bad > packing.max_bad_fraction * total:
        url = records.write_refused(dest, refused)
        enough = math.ceil(1000 * num_bad / total) / 1000
        raise DataError(
            f"{dest}: {num_bad} of {total} pictures cannot be used, over "
            f"max_bad_fraction={packing.max_bad_fraction:g}{_first(refused)}; all are in {url}; "
            f"mend them, or go on without them by max_bad_fraction={enough:g}"
        )


def _close(dest: str, manifest: Manifest, before: tuple[Manifest, str] | None) -> None:
    """Write the manifest, if what is there is still what was found."""
    url = storage.join(dest, MANIFEST)
    try:
        storage.write_json(url, manifest.to_dict(), instead_of=before[1] if before else "")
    except (ConflictError, NotFoundError):
        raise ConflictError(f"{dest}: another build was closed there meanwhile; it stays") from None


def _first(rejected: Sequence[Rejected]) -> str:
    return f"; the first is {rejected[0].id}: {rejected[0].reason}" if rejected else ""


def _batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    rest = iter(items)
    while some := tuple(islice(rest, size)):
        yield some
