"""What a build notes beside its claim, so that one that was cut off goes on where it was.

Each task leaves a record of what it wrote. They hold for one plan only: of the same entries of the
same files, packed in the same way. Records are believed only where they add up.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from raypose import storage
from raypose.config import Packing, Stored, canonical_json, read_stored
from raypose.console import plural, status
from raypose.data.manifests import FORMAT, MANIFEST, RECORDS, Manifest, Rejected, Shard
from raypose.data.sources import Listing, rules
from raypose.errors import DataError

__all__ = ["Record", "check_room", "identity", "read", "resume", "sweep", "write", "write_refused"]

PLAN, REFUSED = "plan", "refused.json"


NOTES = r"plan|refused\.json|[0-9]{1,12}\.json"
"""Names of what builds note beside their claim."""


MIN_CLASSES, MANY_PICTURES = 2, 20
"""Folders that hold pictures, or pictures outside any, that tell a source."""
MAX_LOOKED_INTO = 100
"""Folders of a destination."""


OURS = r"shard-[0-9]{5,}-[0-9a-f]{8}\.parquet"
"""Names that only packing gives."""


class Record(Stored):
    """What a task did."""

    num_read: Annotated[int, Field(ge=0)]
    labels: dict[str, Annotated[int, Field(ge=1)]]
    shards: tuple[Shard, ...]
    rejected: tuple[Rejected, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Record:
        rows = sum(shard.num_rows for shard in self.shards)
        if rows != sum(self.labels.values()) or rows + len(self.rejected) != self.num_read:
            raise ValueError("its shards, labels and pictures left out are not what it read")
        return self

    def is_of(self, labels: Mapping[str, int]) -> bool:
        """Tell whether it may be of a task that reads so many pictures of each class."""
        return self.num_read == sum(labels.values()) and not Counter(self.labels) - Counter(labels)


def identity(listing: Listing, packing: Packing) -> str:
    """Return what two builds share of which one may go on with what the other did."""
    how = packing.model_dump(exclude={"max_bad_fraction"})
    digest = hashlib.sha256(canonical_json([FORMAT, listing.stamp, how]).encode())
    for entry in listing.entries:
        digest.update("\0".join(map(str, entry)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def write(dest: str, first: int, record: Record) -> None:
    """Note what the task did whose first shard has this number."""
    document = record.model_dump(mode="json")
    document["rejected"] = [one._asdict() for one in record.rejected]
    storage.write_json(storage.join(dest, RECORDS, f"{first}.json"), document)


def write_refused(dest: str, refused: list[Rejected]) -> str:
    """List the pictures for which a build was not closed; return where."""
    url = storage.join(dest, RECORDS, REFUSED)
    storage.write_json(url, [one._asdict() for one in refused])
    return url


def resume(dest: str, plan: str, tasks: Mapping[int, Mapping[str, int]]) -> dict[int, Record]:
    """Return the records of the same build if it was cut off; sweep away those of another.

    Args:
        dest: where it is built.
        plan: its `identity`.
        tasks: number of each task → pictures of each class that it reads.
    """
    found = read(dest, plan, tasks)
    if found is None:
        folder = storage.join(dest, RECORDS)
        noted = storage.list_files(folder)
        if any(name not in (PLAN, REFUSED) and re.fullmatch(NOTES, name) for name in noted):
            status(f"{dest}: a build of something else was cut off there; this one begins anew")
        for name in noted:
            if re.fullmatch(NOTES, name):
                storage.delete_file(storage.join(folder, name))
        storage.write_bytes(storage.join(folder, PLAN), plan.encode())
    elif found:
        count = sum(record.num_read for record in found.values())
        status(f"{dest}: going on where a build was cut off, {plural(count, 'picture')} done")
    return found or {}


def read(dest: str, plan: str, tasks: Mapping[int, Mapping[str, int]]) -> dict[int, Record] | None:
    """Return the records of a build, as `resume`; None where there are none, or another's."""
    folder = storage.join(dest, RECORDS)
    names = storage.list_files(folder)
    if PLAN not in names or storage.read_bytes(storage.join(folder, PLAN)) != plan.encode():
        return None
    there = {name: stat.size for name, stat in storage.list_stats(dest).items()}
    records = {}
    for first, labels in tasks.items():
        if f"{first}.json" not in names:
            continue
        record = read_stored(
            Record,
            storage.join(folder, f"{first}.json"),
            what="the record of a build",
            mend="delete it",
        )
        whole = all(there.get(shard.name) == shard.num_bytes for shard in record.shards)
        if whole and record.is_of(labels):
            records[first] = record
    return records


def check_room(dest: str, *, overwrite: bool) -> None:
    """Refuse a place without a data set that other things are in, which a build would sweep away.

    Args:
        dest: where it is to be built.
        overwrite: shards that no manifest lists may go.

    Raises:
        DataError: where what builds note lies elsewhere, or shards lie that no build is at.
    """
    folder = storage.join(dest, RECORDS)
    if storage.is_link(folder):
        raise DataError(f"{folder}: is a link, so what lies there is not this build's; remove it")
    names = [] if overwrite else storage.list_files(dest)
    if not overwrite:
        _refuse_pictures(dest)
    lost = [name for name in names if re.fullmatch(OURS, name)]
    if lost and MANIFEST not in names and PLAN not in storage.list_files(folder):
        raise DataError(
            f"{dest}: holds shards without their {MANIFEST}, such as {lost[0]}; choose another "
            "place, or overwrite=true"
        )


def _refuse_pictures(dest: str) -> None:
    """Refuse class folders, and a folder of many photographs, into which nobody means to pack.

    Raises:
        DataError: naming one of them.
    """
    names = storage.list_folders(dest)[:MAX_LOOKED_INTO]
    inside = [name for name in names if not rules.is_passed_over(f"{name}/x")]
    there = {
        folder: [
            name
            for name in storage.list_files(storage.join(dest, folder))
            if rules.ending(name) in rules.PICTURES
        ]
        for folder in ["", *inside]
    }
    found = [f"{folder}/{some[0]}" for folder, some in there.items() if folder and some]
    if len(found) >= MIN_CLASSES or len(there[""]) >= MANY_PICTURES:
        first = (found or there[""])[0]
        raise DataError(
            f"{dest}: holds pictures, such as {rules.as_text(first)}; are SOURCE and DEST the "
            "wrong way round? Choose an empty folder, or overwrite=true"
        )


def sweep(dest: str, manifest: Manifest, before: Manifest | None, *, begun: float) -> None:
    """Delete what the data set of before was made of, what builds left, and the records.

    Args:
        dest: where it was built.
        manifest: of what is there now.
        before: of what was there.
        begun: when this build took the place, in seconds since 1970.
    """
    kept = {shard.name for shard in manifest.shards}
    old = {shard.name for shard in before.shards} if before else set()
    for name in storage.list_files(dest):
        if name not in kept and (name in old or re.fullmatch(OURS, name)):
            storage.delete_file(storage.join(dest, name))
    storage.clear_parts(dest, f"{OURS}|{re.escape(MANIFEST)}", before=begun)
    if not storage.is_s3(dest):
        storage.delete_file(storage.join(dest, f".{MANIFEST}.lock"))
    folder = storage.join(dest, RECORDS)
    storage.clear_parts(folder, rf"{NOTES}|claim\.json", before=begun)
    for name in storage.list_files(folder):
        if re.fullmatch(NOTES, name):  # the claim goes last: nobody begins before all is gone
            storage.delete_file(storage.join(folder, name))
