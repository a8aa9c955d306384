"""Builds on a server that fails: they end right, or say so and are gone on with to the same end."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.pictures import encoded, photo

from raypose import storage
from raypose.config import Packing
from raypose.data import manifests, packing, shards, sources, splits
from raypose.data.inspection import cluster, inspect
from raypose.errors import ConflictError, DataError, NotFoundError, StorageError
from raypose.testing import Faults, embedded_s3

HOW = Packing(rows_per_shard=4)
NUM = 24


@pytest.fixture
def source(bucket: str) -> str:
    """Pictures of two classes on S3."""
    for k in range(NUM):
        name = f"source/{('Tree', 'Cobra')[k % 2]}/{k:02d}.jpg"
        storage.write_bytes(storage.join(bucket, name), encoded(photo(24 + k, 24)))
    return storage.join(bucket, "source")


def ids(url: str) -> list[str]:
    found = []
    for shard in shards.shard_urls(url):
        found += pq.read_table(io.BytesIO(storage.read_bytes(shard)))["id"].to_pylist()
    return sorted(found)


def persisted(source: str, dest: str, *, tries: int = 12) -> int:
    """Build until it is done; return how often it was begun."""
    for number in range(1, tries + 1):
        try:
            packing.build(source, dest, HOW)
            return number
        except StorageError:
            continue
    raise AssertionError("never done")


def test_an_expired_token_loses_nothing(source: str, bucket: str) -> None:
    whole = packing.build(source, f"{bucket}/whole", HOW)
    with embedded_s3(Faults(denied_after=30)):
        with pytest.raises(StorageError, match=r"access denied; check the credentials.*go on"):
            packing.build(source, f"{bucket}/d", HOW)
        with pytest.raises(StorageError, match="access denied"):
            manifests.read_manifest(f"{bucket}/d")
    with pytest.raises(DataError, match="no data set here"):
        manifests.read_manifest(f"{bucket}/d")
    told: list[Any] = []
    again = packing.build(source, f"{bucket}/d", HOW, progress=lambda *count: told.append(count))
    assert again == whole
    assert shards.verify(f"{bucket}/d").num_rows == NUM


def test_builds_under_faults_end_the_same(source: str, bucket: str, campaign_round: int) -> None:
    whole = packing.build(source, f"{bucket}/whole", HOW)
    faults = Faults(
        {"403": 0.01, "500": 0.05, "503": 0.1, "slow": 0.02, "cut": 0.05, "lost": 0.03},
        seed=campaign_round,
    )
    with embedded_s3(faults):
        persisted(source, f"{bucket}/d")
    assert sum(faults.counts.values()) > faults.counts["requests"]  # there were faults
    assert manifests.read_manifest(f"{bucket}/d") == whole
    assert ids(f"{bucket}/d") == ids(f"{bucket}/whole")
    left = storage.list_files(f"{bucket}/d", recursive=True)
    if faults.counts["403"]:  # which may have come when the rest was cleared away
        left = [name for name in left if not name.startswith("_building/")]
    assert left == ["MANIFEST.json", *(shard.name for shard in whole.shards)]


def test_a_split_under_faults_ends_the_same(source: str, bucket: str) -> None:
    packing.build(source, f"{bucket}/all", HOW)
    rows = inspect([f"{bucket}/all"])
    split = splits.assign(rows, cluster(rows), shares={"val": 0.25})
    whole = splits.write(f"{bucket}/all", f"{bucket}/whole", split, HOW)
    with embedded_s3(Faults({"500": 0.1, "503": 0.1, "cut": 0.1, "lost": 0.05}, seed=3)):
        made = splits.write(f"{bucket}/all", f"{bucket}/parts", split, HOW)
    assert made == whole


def test_a_picture_that_is_gone_ends_a_build(source: str, bucket: str) -> None:
    listing = sources.find(source)
    storage.delete_file(storage.join(source, "Tree/00.jpg"))
    with pytest.raises(NotFoundError, match=r"Tree/00\.jpg: not found"):
        packing.pack(listing, f"{bucket}/d", HOW)


def test_a_source_that_has_changed_is_packed_anew(tmp_path: Path) -> None:
    for k in range(8):
        place = tmp_path / f"in/a/{k}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(photo(30, 30, seed=k)))

    def stopping(function: Any, tasks: Sequence[Any], common: Any) -> Any:
        yield from packing.serial(function, tasks[:1], common)
        raise StorageError("cut off")

    source, dest = str(tmp_path / "in"), str(tmp_path / "d")
    with pytest.raises(StorageError, match="cut off; 4 of 8 pictures are done and kept"):
        packing.build(source, dest, HOW, run=stopping)
    for k in range(8):
        (tmp_path / f"in/a/{k}.jpg").write_bytes(encoded(photo(30, 31, seed=k + 100)))
    manifest = packing.build(source, dest, HOW)
    found = {
        row["id"]: row["image"]["bytes"]
        for shard in manifest.shards
        for row in shards.read_shard(dest, shard).to_pylist()
    }
    assert found == {f"a/{k}.jpg": (tmp_path / f"in/a/{k}.jpg").read_bytes() for k in range(8)}
    assert len(list((tmp_path / "d").glob("shard-*"))) == len(manifest.shards)


def test_a_build_of_bad_pictures_keeps_what_was_there(tmp_path: Path) -> None:
    for k in range(4):
        for name in ("good", "bad"):
            place = tmp_path / name / f"a/{k}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encoded(photo(30, 30, seed=k)) if name == "good" else b"no picture")
    dest = str(tmp_path / "d")
    first = packing.build(str(tmp_path / "good"), dest)
    with pytest.raises(DataError, match="nothing to pack"):
        packing.build(str(tmp_path / "bad"), dest, overwrite=True)
    assert shards.verify(dest) == first


def test_a_shard_that_was_written_over_is_seen(tmp_path: Path) -> None:
    for k in range(4):
        place = tmp_path / f"in/a/{k}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(photo(30, 30, seed=k)))
    dest = str(tmp_path / "d")
    (shard,) = packing.build(str(tmp_path / "in"), dest).shards
    whole = storage.read_bytes(f"{dest}/{shard.name}")
    storage.write_bytes(f"{dest}/{shard.name}", whole + b"x")
    with pytest.raises(DataError, match="is not what the manifest says"):
        shards.read_shard(dest, shard)


def test_one_builder_holds_a_place(source: str, bucket: str) -> None:
    listing = sources.find(source)

    def meanwhile(function: Any, tasks: Sequence[Any], common: Any) -> Any:
        with pytest.raises(ConflictError, match=r"is being written by .*process \d+.*wait for it"):
            packing.pack(listing, f"{bucket}/d", HOW)
        yield from packing.serial(function, tasks, common)

    packing.pack(listing, f"{bucket}/d", HOW, run=meanwhile)
    assert ids(f"{bucket}/d") == sorted(entry.id for entry in listing.entries)


def test_a_data_set_that_was_closed_meanwhile_stays(source: str, bucket: str) -> None:
    listing = sources.find(source)
    folder = storage.join(f"{bucket}/d", manifests.RECORDS)

    def meanwhile(function: Any, tasks: Sequence[Any], common: Any) -> Any:
        yield from packing.serial(function, tasks, common)
        storage.delete_file(storage.join(folder, "claim.json"))  # as if it had lapsed
        packing.pack(listing, f"{bucket}/d", Packing(rows_per_shard=6))

    with pytest.raises(ConflictError, match="another build was closed there meanwhile; it stays"):
        packing.pack(listing, f"{bucket}/d", HOW, run=meanwhile)
    assert len(shards.verify(f"{bucket}/d").shards) == NUM // 6
