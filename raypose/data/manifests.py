"""MANIFEST.json: what a data set holds. A folder without it is no data set."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field, model_validator

from raypose import storage
from raypose.config import Stored, parse_stored
from raypose.errors import NotFoundError

__all__ = [
    "FORMAT",
    "MANIFEST",
    "RECORDS",
    "Digest",
    "Manifest",
    "Rejected",
    "Shard",
    "read_manifest",
    "read_tagged_manifest",
]

MANIFEST = "MANIFEST.json"


RECORDS = "_building"
"""What lies in a folder that is being built."""


FORMAT: Final = "raypose-shards/1"
SHARD_PATTERN = r"^shard-[0-9]{5,}(-[0-9a-f]{8})?\.parquet$"
"""Number and, since 0.2, the first of the digest: builders at once do not write over each other."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Rejected(NamedTuple):
    """A picture left out, and why."""

    id: str
    reason: str


class Shard(Stored):
    """One file of a data set."""

    name: Annotated[str, Field(pattern=SHARD_PATTERN)]
    num_rows: Annotated[int, Field(ge=1)]
    num_bytes: Annotated[int, Field(ge=1)]
    sha256: Digest


class Manifest(Stored):
    """What a data set holds."""

    format: Literal["raypose-shards/1"] = FORMAT
    num_rows: Annotated[int, Field(ge=0)]
    """Pictures."""
    labels: dict[str, Annotated[int, Field(ge=0)]]
    """Pictures of each class."""
    shards: tuple[Shard, ...]
    """Its files."""
    rejected: tuple[Rejected, ...] = ()
    """What was left out when it was packed, and why."""
    listed: dict[str, int] | None = None
    """Pictures of each class that a list named, there or not."""
    source: str = ""
    """What it was packed from."""

    @model_validator(mode="after")
    def _adds_up(self) -> Manifest:
        if self.num_rows != sum(shard.num_rows for shard in self.shards):
            raise ValueError("num_rows is not the sum of its shards'")
        if len({shard.name for shard in self.shards}) < len(self.shards):
            raise ValueError("a shard is listed twice")
        if self.num_rows != sum(self.labels.values()):
            raise ValueError("num_rows is not the sum of its labels'")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the document of MANIFEST.json."""
        document = self.model_dump(mode="json")
        document["rejected"] = [one._asdict() for one in self.rejected]
        return document


def read_manifest(url: str) -> Manifest:
    """Read what a data set says it holds.

    Raises:
        NotFoundError: where there is none.
        DataError: where it is of another form.
        StorageError: where it cannot be read.
    """
    return read_tagged_manifest(url)[0]


def read_tagged_manifest(url: str) -> tuple[Manifest, str]:
    """Return what a data set says it holds, and the tag by which it is replaced."""
    place = storage.join(url, MANIFEST)
    absent = (
        f"{url or '(no location)'}: no data set here ({MANIFEST} not found); "
        "one is packed by: raypose shards build SOURCE DEST"
    )
    if not url:
        raise NotFoundError(absent)
    try:
        content, tag = storage.read_tagged(place)
    except NotFoundError:
        raise NotFoundError(absent) from None
    what = f"a manifest of format {FORMAT}"
    mend = "delete it, and build the data set again"
    return parse_stored(Manifest, content, place, what=what, mend=mend), tag
