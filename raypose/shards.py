"""Data sets as Parquet shards: pack an ImageFolder, describe it in a manifest, verify it.

A shard has the columns ``image: struct<bytes, path>``, ``label: string`` and ``id: string``, with
the schema metadata by which Hugging Face's `datasets` shows pictures. Rows are in an order shuffled
by seed, so that any run of rows is a fair sample. MANIFEST.json is written last: a folder without
it is no data set. Bad pictures are left out and named; the rest is packed.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raypose import storage
from raypose.errors import DataError
from raypose.transforms import decode, shrink

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "Manifest",
    "Rejected",
    "Shard",
    "build",
    "read_manifest",
    "shard_urls",
    "verify",
    "write",
]

MANIFEST = "MANIFEST.json"
FORMAT = "raypose-shards/1"
T = TypeVar("T")
_FEATURES = {
    "image": {"_type": "Image"},
    "label": {"dtype": "string", "_type": "Value"},
    "id": {"dtype": "string", "_type": "Value"},
}
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.string()),
        ("id", pa.string()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


class Example(NamedTuple):
    """One picture on its way into a shard; `id` is its path below the source."""

    id: str
    label: str
    content: bytes


class Rejected(NamedTuple):
    """A file left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """One file of a data set."""

    name: str
    num_rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a data set holds; `rejected` lists what was left out when it was packed."""

    num_rows: int
    labels: dict[str, int]
    shards: tuple[Shard, ...]
    rejected: tuple[Rejected, ...] = ()
    format: str = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Return the document of MANIFEST.json."""
        document = asdict(self)
        document["rejected"] = [rejected._asdict() for rejected in self.rejected]
        return document


def build(
    source: str,
    dest: str,
    *,
    max_side: int | None = None,
    max_pixels: int = 50_000_000,
    rows_per_shard: int = 256,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Pack an ImageFolder (``class/picture``) into shards.

    Args:
        source: folder or s3:// URL with one folder for each class.
        dest: folder or s3:// URL to write to.
        max_side: where set, pictures are stored upright as JPEG with at most this longer side in
            pixels; otherwise their bytes are stored as they are.
        max_pixels: pictures whose header claims more are left out.
        rows_per_shard: pictures in one file.
        seed: of the order of rows.
        overwrite: replace a data set that is there.
        progress: told (files done, files in all).

    Raises:
        DataError: where the source holds no class folders or no good picture, or `dest` is taken.
    """
    names = storage.list_files(source, recursive=True)
    inside = [name for name in names if "/" in name]
    if not inside:
        raise DataError(f"{source}: no pictures found; expected one folder for each class")
    order = sorted(inside, key=lambda name: storage.sha256(f"{seed}/{name}".encode()))
    done = 0

    def load(name: str) -> Example | Rejected:
        content = storage.read_bytes(storage.join(source, name))
        return _examine(name, content, max_side=max_side, max_pixels=max_pixels)

    def examine() -> Iterator[Example | Rejected]:
        nonlocal done
        yield from (Rejected(name, "not in a class folder") for name in names if "/" not in name)
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
            for some in _batched(order, 64):
                yield from pool.map(load, some)
                done += len(some)
                progress(done, len(order))

    return write(examine(), dest, rows_per_shard=rows_per_shard, overwrite=overwrite)


def write(
    examples: Iterator[Example | Rejected],
    dest: str,
    *,
    rows_per_shard: int = 256,
    overwrite: bool = False,
) -> Manifest:
    """Write a stream of examples as shards and close them with a manifest."""
    place = storage.join(dest, MANIFEST)
    if storage.exists(place):
        if not overwrite:
            raise DataError(f"{dest}: already holds a data set; choose another, or overwrite=true")
        stale = read_manifest(dest)
        storage.delete_file(place)  # first, so that what follows is never read as a data set
        for shard in stale.shards:
            storage.delete_file(storage.join(dest, shard.name))
    labels: Counter[str] = Counter()
    shards: list[Shard] = []
    rejected: list[Rejected] = []

    def good() -> Iterator[Example]:
        for item in examples:
            if isinstance(item, Rejected):
                rejected.append(item)
            else:
                yield item

    for rows in _batched(good(), rows_per_shard):
        labels.update(row.label for row in rows)
        shards.append(_write_shard(rows, dest, number=len(shards)))
    if not shards:
        raise DataError(f"{dest}: nothing to pack: all {len(rejected)} files were rejected")
    manifest = Manifest(
        num_rows=sum(labels.values()),
        labels=dict(sorted(labels.items())),
        shards=tuple(shards),
        rejected=tuple(rejected),
    )
    storage.write_json(place, manifest.to_dict())
    return manifest


def read_manifest(url: str) -> Manifest:
    """Read what a data set says it holds.

    Raises:
        DataError: where there is none, or it is of another format.
    """
    place = storage.join(url, MANIFEST)
    if not url or not storage.exists(place):
        raise DataError(
            f"{url or '(no location)'}: no data set here ({MANIFEST} not found); "
            f"build one with: raypose shards build SOURCE {url or 'DEST'}"
        )
    document = storage.read_json(place)
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise DataError(f"{place}: not a manifest of format {FORMAT}; build the data set again")
    return Manifest(
        num_rows=document["num_rows"],
        labels=document["labels"],
        shards=tuple(Shard(**shard) for shard in document["shards"]),
        rejected=tuple(Rejected(**item) for item in document["rejected"]),
    )


def shard_urls(url: str) -> list[str]:
    """Return the locations of a data set's files, in order."""
    return [storage.join(url, shard.name) for shard in read_manifest(url).shards]


def verify(
    url: str, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Manifest:
    """Compare every shard with the manifest.

    Raises:
        DataError: naming the first shard that is missing, changed or miscounted.
    """
    manifest = read_manifest(url)
    for number, shard in enumerate(manifest.shards, start=1):
        content = storage.read_bytes(storage.join(url, shard.name))
        if storage.sha256(content) != shard.sha256:
            raise DataError(f"{url}: {shard.name} is not what the manifest says; build it again")
        rows = pq.ParquetFile(io.BytesIO(content)).metadata.num_rows
        if rows != shard.num_rows:
            raise DataError(f"{url}: {shard.name} has {rows} rows where {shard.num_rows} are due")
        progress(number, len(manifest.shards))
    return manifest


def _examine(
    name: str, content: bytes, *, max_side: int | None, max_pixels: int
) -> Example | Rejected:
    """Decode a picture once, so that what is packed can be read."""
    try:
        image = decode(content, max_pixels=max_pixels)
    except DataError as error:
        return Rejected(name, str(error))
    if max_side is not None:
        content = shrink(image, max_side=max_side)
    return Example(id=name, label=name.rsplit("/", 2)[-2], content=content)


def _write_shard(rows: Sequence[Example], dest: str, *, number: int) -> Shard:
    table = pa.Table.from_pylist(
        [
            {"image": {"bytes": row.content, "path": row.id}, "label": row.label, "id": row.id}
            for row in rows
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


def _batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    rest = iter(items)
    while some := tuple(islice(rest, size)):
        yield some
