"""Data sets as Parquet shards: their schema and manifest, how they are read and verified.

A shard has the columns ``image: struct<bytes, path>``, ``label: string`` and ``id: string``, with
the schema metadata by which Hugging Face's `datasets` shows pictures; and ``look``, what was seen
of a picture when it was packed. MANIFEST.json names the shards: a folder without it is no data set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypose import storage
from raypose.data.looks import LOOK, Look, is_look
from raypose.data.manifests import MANIFEST, Manifest, Shard, read_manifest
from raypose.errors import DataError

__all__ = [
    "CHECKED",
    "SCHEMA",
    "manifest_hash",
    "parse_shard",
    "read_labels",
    "read_looks",
    "read_shard",
    "shard_urls",
    "verify",
]


DTYPES = {pa.float64(): "float64"}
"""Arrow's types that have another name there."""


def _value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


_FEATURES = {
    "image": {"_type": "Image"},
    "label": _value("string"),
    "id": _value("string"),
    "look": {field.name: _value(DTYPES.get(field.type, str(field.type))) for field in LOOK},
}


SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.string()),
        ("id", pa.string()),
        ("look", LOOK),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


CHECKED: dict[str, Any] = {"page_checksum_verification": True}
"""How a file is opened whose pages tell when they are damaged: ours do."""
NAMES = ["image", "label", "id"]
"""Of the columns that a shard has always had."""
_PLAIN = pa.schema([SCHEMA.field(name) for name in NAMES])


def manifest_hash(url: str) -> str:
    """Return the SHA-256 of a data set's manifest, which holds those of its files."""
    return storage.sha256(storage.read_bytes(storage.join(url, MANIFEST)))


def read_shard(url: str, shard: Shard) -> pa.Table:
    """Read one file of a data set, the columns image, label and id, in one request.

    Args:
        url: of the data set.
        shard: what its manifest says of the file.

    Raises:
        DataError: where the file is not what the manifest says: of another size, or other rows.
    """
    place = storage.join(url, shard.name)
    return parse_shard(storage.read_bytes(place), shard, place)


def parse_shard(content: bytes, shard: Shard, place: str) -> pa.Table:
    """Return the rows of a file's content: see `read_shard`."""
    if len(content) != shard.num_bytes:
        raise _changed(place, f"{len(content)} bytes where it says {shard.num_bytes}")
    try:
        # in this thread: Arrow's own may outlive the interpreter that the content belongs to
        with pq.ParquetFile(pa.BufferReader(content), **CHECKED) as file:
            table = file.read(NAMES, use_threads=False).cast(_PLAIN)
    except (pa.ArrowException, OSError) as error:
        raise _changed(place, " ".join(str(error).split())[:80]) from None
    if len(table) != shard.num_rows:
        raise _changed(place, f"{len(table)} rows where it says {shard.num_rows}")
    if any(table[name].null_count for name in table.column_names):
        raise _changed(place, "a row lacks its image, label or id")
    return table


def read_looks(url: str, shard: Shard) -> list[tuple[str, str, Look]] | None:
    """Return id, label and look of every picture of one file; None where packing did not look.

    Raises:
        DataError: where the file is not what the manifest says.
    """
    place = storage.join(url, shard.name)
    with storage.open_file(place) as file:
        if file.size() != shard.num_bytes:
            raise _changed(place, f"{file.size()} bytes where it says {shard.num_bytes}")
        try:
            opened = pq.ParquetFile(file, **CHECKED)
            schema = opened.schema_arrow
            if "look" not in schema.names or schema.field("look").type != LOOK:
                return None
            table = opened.read(["id", "label", "look"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and "CRC" not in str(error):
                raise  # it could not be read, whatever it is
            raise _changed(place, " ".join(str(error).split())[:80]) from None
    if table.num_rows != shard.num_rows:
        raise _changed(place, f"{table.num_rows} rows where it says {shard.num_rows}")
    rows = [(row["id"], row["label"], row["look"]) for row in table.to_pylist()]
    if not all(key and label and is_look(seen) for key, label, seen in rows):
        return None
    return [(key, label, Look(**seen)) for key, label, seen in rows]


def _changed(place: str, found: str) -> DataError:
    return DataError(f"{place}: is not what the manifest says ({found}); build the data set again")


def read_labels(url: str) -> list[str]:
    """Return the label of every picture of a data set, in order; pictures are not read."""
    labels: list[str] = []
    for place in shard_urls(url):
        with storage.open_file(place) as file:
            labels += pq.read_table(file, columns=["label"])["label"].to_pylist()
    return labels


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
    labels, ids = Counter[str](), set[str]()
    for number, shard in enumerate(manifest.shards, start=1):
        place = storage.join(url, shard.name)
        content = storage.read_bytes(place)
        if storage.sha256(content) != shard.sha256:
            raise DataError(f"{url}: {shard.name} is not what the manifest says; build it again")
        table = parse_shard(content, shard, place)
        labels.update(table["label"].to_pylist())
        ids.update(table["id"].to_pylist())
        progress(number, len(manifest.shards))
    if len(ids) < manifest.num_rows:
        raise _changed(url, f"{manifest.num_rows - len(ids)} pictures bear another's id")
    if labels != Counter(manifest.labels):
        raise _changed(url, "its classes have other numbers of pictures")
    return manifest
