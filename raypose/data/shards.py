"""Data sets as Parquet shards: their schema and manifest, how they are read and verified.

A shard has the columns ``image: struct<bytes, path>``, ``label: string`` and ``id: string``, with
the schema metadata by which Hugging Face's `datasets` shows pictures. MANIFEST.json names the
shards: a folder without it is no data set.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypose import storage
from raypose.data.sources import MANIFEST, Rejected
from raypose.errors import DataError

__all__ = [
    "FORMAT",
    "SCHEMA",
    "Manifest",
    "Shard",
    "manifest_hash",
    "read_labels",
    "read_manifest",
    "read_shard",
    "shard_urls",
    "verify",
]

FORMAT = "raypose-shards/1"


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


@dataclass(frozen=True)
class Shard:
    """One file of a data set."""

    name: str
    num_rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a data set holds.

    Attributes:
        num_rows: pictures.
        labels: pictures of each class.
        shards: its files.
        rejected: what was left out when it was packed, and why.
        listed: pictures of each class that a list named, there or not.
        source: what it was packed from.
        format: of this document.
    """

    num_rows: int
    labels: dict[str, int]
    shards: tuple[Shard, ...]
    rejected: tuple[Rejected, ...] = ()
    listed: Mapping[str, int] | None = None
    source: str = ""
    format: str = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Return the document of MANIFEST.json."""
        document = asdict(self)
        document["rejected"] = [rejected._asdict() for rejected in self.rejected]
        return document


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
        listed=document.get("listed"),
        source=document.get("source", ""),
    )


def manifest_hash(url: str) -> str:
    """Return the SHA-256 of a data set's manifest, which holds those of its files."""
    return storage.sha256(storage.read_bytes(storage.join(url, MANIFEST)))


def read_shard(url: str) -> pa.Table:
    """Read one file of a data set: the columns image, label and id."""
    with storage.open_file(url) as file:
        content = io.BytesIO(file.read())  # one request
        return pq.read_table(content, columns=["image", "label", "id"])


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
    for number, shard in enumerate(manifest.shards, start=1):
        content = storage.read_bytes(storage.join(url, shard.name))
        if storage.sha256(content) != shard.sha256:
            raise DataError(f"{url}: {shard.name} is not what the manifest says; build it again")
        rows = pq.ParquetFile(io.BytesIO(content)).metadata.num_rows
        if rows != shard.num_rows:
            raise DataError(f"{url}: {shard.name} has {rows} rows where {shard.num_rows} are due")
        progress(number, len(manifest.shards))
    return manifest
