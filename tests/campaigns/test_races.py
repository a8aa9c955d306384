"""Campaigns of races: two processes at once, and every loser is told."""

from __future__ import annotations

import io
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.patience import PATIENCE_S
from support.pictures import encoded, photo

from raypose import storage
from raypose.config import Packing
from raypose.data import manifests, packing, shards
from raypose.errors import DataError, RayposeError
from raypose.releases import registry

NUM = 18


@pytest.fixture(scope="module")
def pair(s3: str) -> Iterator[Callable[..., list[tuple[str, str]]]]:
    """Runs a function in two processes at once, with other arguments in each."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as pool:
        start = manager.Barrier(2)

        def race(function: Callable[..., str], *each: tuple[Any, ...]) -> list[tuple[str, str]]:
            running = [pool.submit(raced, function, given, start) for given in each]
            return [one.result(timeout=PATIENCE_S) for one in running]

        yield race


def raced(function: Callable[..., str], given: tuple[Any, ...], start: Any) -> tuple[str, str]:
    """Wait for the other, then run; return what came of it, or what was told."""
    start.wait(60)
    try:
        return "done", function(*given)
    except RayposeError as error:
        return "told", str(error)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


def build(source: str, dest: str, rows_per_shard: int, overwrite: bool) -> str:
    how = Packing(rows_per_shard=rows_per_shard)
    return str(len(packing.build(source, dest, how, overwrite=overwrite).shards))


def publish(root: str, folder: str) -> str:
    return registry.publish(root, "yoga", Path(folder)).version


def promote(root: str, reference: str) -> str:
    return registry.promote(root, reference).version


def ids(url: str) -> list[str]:
    found = []
    for shard in shards.shard_urls(url):
        found += pq.read_table(io.BytesIO(storage.read_bytes(shard)))["id"].to_pylist()
    return found


def test_two_builders_leave_one_data_set(root: str, pair: Any, campaign_round: int) -> None:
    source, dest = storage.join(root, "in"), storage.join(root, "d")
    for k in range(NUM):
        storage.write_bytes(f"{source}/{'ab'[k % 2]}/{k}.jpg", encoded(photo(24, 24, seed=k)))
    overwrite = bool(campaign_round % 2)
    if overwrite:
        packing.build(source, dest, Packing(rows_per_shard=5))
    outcomes = pair(build, (source, dest, 2, overwrite), (source, dest, 3, overwrite))
    done = [found for kind, found in outcomes if kind == "done"]
    assert done  # one at least
    for kind, told in outcomes:
        if kind == "told":
            assert "is being written by" in told or "already holds a data set" in told
    manifest = shards.verify(dest)
    assert str(len(manifest.shards)) in done
    assert sorted(ids(dest)) == sorted(f"{'ab'[k % 2]}/{k}.jpg" for k in range(NUM))
    left = [name for name in storage.list_files(dest) if name != manifests.MANIFEST]
    assert left == sorted(shard.name for shard in manifest.shards)


def test_two_publishers_take_two_numbers(
    root: str, pair: Any, tmp_path: Path, campaign_round: int
) -> None:
    folders = []
    for name in "ab":
        folder = tmp_path / f"release-{name}"
        folder.mkdir()
        (folder / "weights").write_text(f"{name} {campaign_round}")
        folders.append(str(folder))
    outcomes = pair(publish, (root, folders[0]), (root, folders[1]))
    assert [kind for kind, _ in outcomes] == ["done", "done"]
    versions = sorted(version for _, version in outcomes)
    assert [version.split("-")[0] for version in versions] == ["v1", "v2"]
    for number in ("v1", "v2"):
        assert registry.resolve(root, f"yoga:{number}").version in versions
    same = pair(publish, (root, folders[0]), (root, folders[0]))
    assert {version for _, version in same} == {outcomes[0][1]}


def test_two_promotions_are_one_after_the_other(
    root: str, pair: Any, tmp_path: Path, campaign_round: int
) -> None:
    made = []
    for name in "abc":
        folder = tmp_path / f"release-{name}"
        folder.mkdir()
        (folder / "weights").write_text(name)
        made.append(registry.publish(root, "yoga", folder))
    registry.promote(root, str(made[0]))
    outcomes = pair(promote, (root, str(made[1])), (root, str(made[2])))
    now = registry.resolve(root, "yoga").version
    if all(kind == "done" for kind, _ in outcomes):  # the later knew of the earlier
        assert registry.rollback(root, "yoga").version in {str(found) for _, found in outcomes}
    else:
        (winner,) = [found for kind, found in outcomes if kind == "done"]
        (told,) = [found for kind, found in outcomes if kind == "told"]
        assert now == winner
        assert re.search(rf"moved to {winner} by .+, process \d+ on ", told)
        assert registry.rollback(root, "yoga").version == made[0].version


def test_a_dead_builders_place_is_taken_over(root: str, pair: Any) -> None:
    source, dest = storage.join(root, "in"), storage.join(root, "d")
    storage.write_bytes(f"{source}/a/1.jpg", encoded(photo(24, 24)))
    claim = storage.join(dest, manifests.RECORDS, "claim.json")
    gone = {"holder": "x", "host": "elsewhere", "pid": 1, "at": 1.0}
    storage.write_json(claim, gone)
    assert packing.build(source, dest).num_rows == 1
    with pytest.raises(DataError, match="already holds a data set"):
        packing.build(source, dest)
