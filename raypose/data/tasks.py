"""A task of packing: pictures are read, looked at and written as shards, and a record is left."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raypose import storage
from raypose.config import Packing
from raypose.data import images, records, sources
from raypose.data.looks import LOOK, Look, look
from raypose.data.manifests import Rejected, Shard
from raypose.data.shards import SCHEMA
from raypose.data.sources import Entry
from raypose.errors import BadPicture, NotFoundError

__all__ = ["Task", "pack_task"]

FETCHERS = 8


T = TypeVar("T")
R = TypeVar("R")


SHARD_BYTES = 256 << 20
"""A shard that has grown to this is written, however few its rows."""


READ_AHEAD = FETCHERS
"""Pictures that a task holds beside its shard."""


class Task(NamedTuple):
    """Shards to write from entries that are read together; `first` numbers the first of them."""

    first: int
    shards: Sequence[Sequence[Entry]]

    @property
    def labels(self) -> Counter[str]:
        """Pictures of each class that it reads."""
        return Counter(entry.label for shard in self.shards for entry in shard)


class _Picture(NamedTuple):
    """One to be written."""

    entry: Entry
    content: bytes
    look: Look | None


def pack_task(task: Task, common: tuple[str, Packing, bool, bool]) -> tuple[int, records.Record]:
    """Write the shards of a task, then its record; return the task's number and the record."""
    dest, packing, may_miss, as_they_are = common
    written: list[Shard] = []
    rejected: list[Rejected] = []
    labels = Counter[str]()
    read = sources.opened([entry for shard in task.shards for entry in shard])

    def examine(entry: Entry) -> _Picture | Rejected:
        content = b""
        try:
            content = read(entry)
            return _Picture(entry, *_examined(content, packing))
        except BadPicture as error:
            if as_they_are:
                return _Picture(entry, content, None)
            return Rejected(entry.id, str(error))
        except NotFoundError as error:
            if may_miss:
                return Rejected(entry.id, str(error).removeprefix(f"{entry.place}: "))
            raise

    with ThreadPoolExecutor(FETCHERS) as pool:  # decoding leaves the interpreter's lock
        for number, entries in enumerate(task.shards, start=task.first):
            rows: list[_Picture] = []
            held = 0
            for outcome in _in_turn(pool, examine, entries):
                if isinstance(outcome, Rejected):
                    rejected.append(outcome)
                    continue
                rows.append(outcome)
                labels[outcome.entry.label] += 1
                held += len(outcome.content)
                if held >= SHARD_BYTES:
                    written.append(_write_shard(rows, dest, number=number))
                    rows, held = [], 0
            if rows:
                written.append(_write_shard(rows, dest, number=number))
    record = records.Record(
        num_read=sum(map(len, task.shards)),
        labels=labels,
        shards=tuple(written),
        rejected=tuple(rejected),
    )
    records.write(dest, task.first, record)
    return task.first, record


def _in_turn(pool: Executor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the results of some items in their order, a few of them under way."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > READ_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _examined(content: bytes, packing: Packing) -> tuple[bytes, Look | None]:
    """Decode a picture once, make it smaller where asked, and note what it is like."""
    if not content:
        raise BadPicture("holds no bytes")
    if packing.max_side is None and not packing.check:
        return content, None
    pixels = images.decode(content, max_pixels=packing.max_pixels)
    if packing.max_side is not None:
        pixels = images.shrink(pixels, max_side=packing.max_side)
        content = images.encode(pixels, quality=packing.quality)
        pixels = images.decode(content, max_pixels=packing.max_pixels)  # as others will see it
    return content, look(content, pixels)


def _write_shard(rows: Sequence[_Picture], dest: str, *, number: int) -> Shard:
    ids = [row.entry.id for row in rows]
    pictures = pa.StructArray.from_arrays(
        [pa.array([row.content for row in rows], pa.binary()), pa.array(ids, pa.string())],
        fields=list(SCHEMA.field("image").type),
    )
    arrays = [
        pictures,
        pa.array([row.entry.label for row in rows], pa.string()),
        pa.array(ids, pa.string()),
        pa.array([row.look and row.look._asdict() for row in rows], LOOK),
    ]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    sink = pa.BufferOutputStream()
    # JPEG does not compress further; small row groups let a reader stream
    how: dict[str, Any] = {"compression": "none", "use_dictionary": ["label"]}
    pq.write_table(table, sink, row_group_size=64, write_page_checksum=True, **how)
    content = memoryview(sink.getvalue())
    digest = storage.sha256(content)
    name = f"shard-{number:05d}-{digest[:8]}.parquet"
    storage.write_bytes(storage.join(dest, name), content)
    return Shard(name=name, num_rows=len(rows), num_bytes=len(content), sha256=digest)
