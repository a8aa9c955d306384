"""Pictures of any source → shards: packing, on as many machines as there are.

Rows are in an order shuffled by seed, so that any run of rows is a fair sample. Bad pictures are
left out and named; the rest is packed. Packing is cut into tasks that depend on nothing but the
plan: they run in any order, anywhere, and each leaves a record. A build that was cut off goes on
from its records. MANIFEST.json is written last: a folder without it is no data set.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import accumulate, islice
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raypose import storage
from raypose.config import Packing, canonical_json
from raypose.data import images, sources
from raypose.data.shards import SCHEMA, Manifest, Shard, read_manifest
from raypose.data.sources import MANIFEST, RECORDS, Entry, Listing, Rejected
from raypose.errors import DataError

__all__ = ["Run", "T", "Task", "build", "pack", "serial"]

FETCHERS = 8
AS_IT_IS = Packing()


T = TypeVar("T")


SHARDS_A_READ = 8
"""Shards that a task fills from Parquet row groups that it reads together, to mix them."""


Run = Callable[[Callable[..., Any], Sequence[Any], Any], Iterator[Any]]
"""(function, tasks, what all of them need) → results in any order: see `serial`."""


class Task(NamedTuple):
    """Shards to write from entries that are read together; `first` numbers the first of them."""

    first: int
    shards: list[list[Entry]]


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

    Args:
        listing: of the source.
        dest: folder or s3:// URL to write to.
        packing: how.
        overwrite: replace a data set that is there.
        progress: called with (pictures done, in all).
        run: runs the tasks.

    Raises:
        DataError: where no good picture is found, or `dest` is taken.
    """
    if storage.join(listing.source) == storage.join(dest):
        raise DataError(f"{dest}: is source and destination at once; choose another destination")
    _make_room(dest, overwrite=overwrite)
    tasks = _plan(listing.entries, packing)
    records = _resume(listing, dest, packing)
    num_done = sum(record["num_read"] for record in records.values())
    todo = [task for task in tasks if str(task.first) not in records]
    for first, record in run(_pack_task, todo, (dest, packing)):
        records[first] = record
        num_done += record["num_read"]
        progress(num_done, len(listing.entries))
    manifest = _closed(listing, [records[str(task.first)] for task in tasks])
    if not manifest.shards:
        storage.delete_folder(storage.join(dest, RECORDS))
        raise DataError(
            f"{dest}: nothing to pack: all {len(manifest.rejected)} pictures of {listing.source} "
            f"were left out{_first(manifest.rejected)}"
        )
    storage.write_json(storage.join(dest, MANIFEST), manifest.to_dict())
    storage.delete_folder(storage.join(dest, RECORDS))
    return manifest


def _plan(entries: Sequence[Entry], packing: Packing) -> list[Task]:
    """Cut entries into tasks, in an order shuffled by seed.

    Files and members of tars are drawn from anywhere. Parquet is read by row groups, so that these
    are drawn at random and their rows mixed over several shards.
    """

    def key(name: str) -> str:
        return storage.sha256(f"{packing.seed}/{name}".encode())

    size = packing.rows_per_shard
    alone = sorted((entry for entry in entries if not entry.group), key=lambda e: key(e.id))
    tasks = [[list(some)] for some in _batched(alone, size)]
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.group:
            groups.setdefault(entry.group, []).append(entry)
    together: list[Entry] = []
    order = sorted(groups, key=key)
    for name in order:
        together += groups[name]
        if len(together) >= SHARDS_A_READ * size or name == order[-1]:
            together.sort(key=lambda entry: key(entry.id))
            tasks.append([list(some) for some in _batched(together, size)])
            together = []
    firsts = [0, *accumulate(len(shards) for shards in tasks)]
    return [Task(first, shards) for first, shards in zip(firsts, tasks, strict=False)]


def _pack_task(task: Task, common: tuple[str, Packing]) -> tuple[str, dict[str, Any]]:
    """Write the shards of a task, then its record; return the task's number and the record."""
    dest, packing = common
    written, rejected, labels = [], [], Counter[str]()
    read = sources.opened([entry for shard in task.shards for entry in shard])

    def examine(entry: Entry) -> tuple[Entry, bytes] | Rejected:
        try:
            return entry, _examined(read(entry), packing)
        except DataError as error:
            return Rejected(entry.id, str(error).removeprefix(f"{entry.url}: "))

    with ThreadPoolExecutor(FETCHERS) as pool:  # decoding leaves the interpreter's lock
        for number, entries in enumerate(task.shards, start=task.first):
            rows = []
            for outcome in pool.map(examine, entries):
                if isinstance(outcome, Rejected):
                    rejected.append(outcome)
                else:
                    rows.append(outcome)
                    labels[outcome[0].label] += 1
            if rows:
                written.append(asdict(_write_shard(rows, dest, number=number)))
    record = {
        "num_read": sum(map(len, task.shards)),
        "labels": labels,
        "shards": written,
        "rejected": [item._asdict() for item in rejected],
    }
    storage.write_json(storage.join(dest, RECORDS, f"{task.first}.json"), record)
    return str(task.first), record


def _examined(content: bytes, packing: Packing) -> bytes:
    """Decode a picture once, and make it smaller where asked."""
    if packing.max_side is None and not packing.check:
        return content
    pixels = images.decode(content, max_pixels=packing.max_pixels)
    if packing.max_side is None:
        return content
    return images.encode(images.shrink(pixels, max_side=packing.max_side), quality=packing.quality)


def _write_shard(rows: Sequence[tuple[Entry, bytes]], dest: str, *, number: int) -> Shard:
    table = pa.Table.from_pylist(
        [
            {"image": {"bytes": content, "path": entry.id}, "label": entry.label, "id": entry.id}
            for entry, content in rows
        ],
        schema=SCHEMA,
    )
    buffer = io.BytesIO()
    # JPEG does not compress further; small row groups let a reader stream
    pq.write_table(table, buffer, compression="none", row_group_size=64)
    content = buffer.getvalue()
    name = f"shard-{number:05d}.parquet"
    storage.write_bytes(storage.join(dest, name), content)
    return Shard(name, len(rows), len(content), storage.sha256(content))


def _make_room(dest: str, *, overwrite: bool) -> None:
    """Refuse to lose a data set, or remove it, its manifest first, so that it is none at once."""
    url = storage.join(dest, MANIFEST)
    if not storage.exists(url):
        return
    if not overwrite:
        raise DataError(f"{dest}: already holds a data set; choose another, or overwrite=true")
    stale = read_manifest(dest)
    storage.delete_file(url)
    for shard in stale.shards:
        storage.delete_file(storage.join(dest, shard.name))


def _resume(listing: Listing, dest: str, packing: Packing) -> dict[str, dict[str, Any]]:
    """Return the records of the same build if it was cut off; sweep away those of another."""
    folder = storage.join(dest, RECORDS)
    plan = storage.join(folder, "plan.json")
    digest = hashlib.sha256(canonical_json(packing.model_dump()).encode())
    for entry in listing.entries:
        digest.update(canonical_json(entry).encode())
    identity = digest.hexdigest()
    names = [name for name in storage.list_files(folder) if name != "plan.json"]
    records = {name[:-5]: storage.read_json(storage.join(folder, name)) for name in names}
    if storage.exists(plan) and storage.read_json(plan) == identity:
        return records
    for record in records.values():
        for shard in record["shards"]:
            storage.delete_file(storage.join(dest, shard["name"]))
    storage.delete_folder(folder)
    storage.write_json(plan, identity)
    return {}


def _closed(listing: Listing, records: Iterable[Mapping[str, Any]]) -> Manifest:
    labels: Counter[str] = Counter()
    shards: list[Shard] = []
    rejected = list(listing.rejected)
    for record in records:
        labels.update(record["labels"])
        shards += [Shard(**shard) for shard in record["shards"]]
        rejected += [Rejected(**item) for item in record["rejected"]]
    return Manifest(
        num_rows=sum(labels.values()),
        labels=dict(sorted(labels.items())),
        shards=tuple(shards),
        rejected=tuple(rejected),
        listed=listing.listed or None,
        source=listing.source,
    )


def _first(rejected: Sequence[Rejected]) -> str:
    return f"; the first is {rejected[0].id}: {rejected[0].reason}" if rejected else ""


def _batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    rest = iter(items)
    while some := tuple(islice(rest, size)):
        yield some
