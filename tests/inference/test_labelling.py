"""Tables of what a release takes a data set for: right, resumable, whole or not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypose import storage
from raypose.config import Config, document_hash
from raypose.data import manifests, packing
from raypose.errors import ConflictError, DataError, UsageError
from raypose.inference import Options, label, labelling
from raypose.releases import Model

PLAN = document_hash({})[:16]


@pytest.fixture(scope="module")
def model(trained: Config) -> Model:
    return Model.load("tiny", storage=trained.storage, device="cpu")


@pytest.fixture
def some(pictures: Path, bucket: str, tmp_path: Path) -> str:
    """Four shards of nine pictures; one picture is none."""
    folder = tmp_path / "some"
    shutil.copytree(pictures / "val", folder)
    first = min(folder.glob("*/*.jpg"))
    first.write_bytes(b"<html>")
    packing.build(str(folder), f"{bucket}/some", packing.Packing(rows_per_shard=9, check=False))
    return f"{bucket}/some"


def read(url: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(storage.read_bytes(url)))


def test_every_picture_is_what_the_model_says_of_it(
    model: Model, cluster: None, some: str, bucket: str, tmp_path: Path
) -> None:
    made = label(model, some, f"{bucket}/t.parquet", Options(3, abstain_below=0.1), num_workers=2)
    assert (made.num_rows, made.num_bad) == (36, 1)
    assert "not a picture" in made.first_bad[1]
    table = read(f"{bucket}/t.parquet")
    assert table.column_names == [
        "id", "label", "predicted", "name", "probability", "top_labels", "top_probabilities",
        "error",
    ]  # fmt: skip
    ids = table["id"].to_pylist()
    found = model.predict(
        [(tmp_path / "some" / name).read_bytes() for name in ids], top_k=3, abstain_below=0.1
    )
    assert sorted(ids) == sorted(
        str(path.relative_to(tmp_path / "some")) for path in (tmp_path / "some").glob("*/*.jpg")
    )
    for row, one in zip(table.to_pylist(), found, strict=True):
        assert row["label"] == row["id"].split("/")[0]
        assert row["predicted"] == one.label
        assert row["name"] == one.name
        assert row["error"] == one.error
        assert row["top_labels"] == [top.label for top in one.top]
        assert row["top_probabilities"] == pytest.approx(
            [top.probability for top in one.top], abs=1e-5
        )
        if not one.error:
            assert row["probability"] == pytest.approx(one.probability, abs=1e-5)
    assert storage.list_files(labelling.parts_url(f"{bucket}/t.parquet"), recursive=True) == []


def test_one_that_was_cut_off_goes_on(
    model: Model, cluster: None, some: str, bucket: str, tmp_path: Path
) -> None:
    """What is done is not read again, and the table is that of an undisturbed run, to the byte."""
    whole, out = f"{bucket}/whole.parquet", str(tmp_path / "labels" / "t.parquet")
    label(model, some, whole, Options(2))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(model, some, out, Options(2), num_workers=1, progress=interrupt)
    assert not storage.exists(out)
    parts = labelling.parts_url(out)
    done = [int(name[5:10]) for name in storage.list_files(parts) if name.startswith("part-")]
    assert 1 <= len(done) < 4
    names = [shard.name for shard in manifests.read_manifest(some).shards]
    for number in done:  # to read one of these again would fail
        storage.delete_file(f"{some}/{names[number]}")
    told: list[tuple[int, int]] = []
    label(model, some, out, Options(2), progress=lambda *counts: told.append(counts))
    assert told[0][0] >= 9 * len(done)  # a worker may have written one more as it was ended
    assert told[-1] == (36, 36)
    assert storage.read_bytes(out) == storage.read_bytes(whole)
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["t.parquet"]


def test_parts_of_another_plan_go(model: Model, cluster: None, some: str, bucket: str) -> None:
    out = f"{bucket}/t.parquet"

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(model, some, out, Options(2), progress=interrupt)
    told: list[tuple[int, int]] = []
    label(model, some, out, Options(1, level=1), progress=lambda *counts: told.append(counts))
    assert told[0] == (9, 36)  # from the start
    table = read(out)
    assert "top_labels" not in table.column_names
    names = {name for name in table["predicted"].to_pylist() if name}
    assert names <= set(model.taxonomy.levels[0])


def test_a_table_that_is_there_stays(model: Model, cluster: None, some: str, bucket: str) -> None:
    out = f"{bucket}/t.parquet"
    label(model, some, out, Options())
    before = storage.read_bytes(out)
    with pytest.raises(DataError, match=r"t.parquet: is there already; .* overwrite=true"):
        label(model, some, out, Options(abstain_below=1.0))
    assert storage.read_bytes(out) == before
    label(model, some, out, Options(abstain_below=1.0), overwrite=True)
    assert set(read(out)["predicted"].to_pylist()) == {None}


def test_what_is_nobodys_part_is_left_alone(
    model: Model, cluster: None, some: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "t.parquet")
    mine = tmp_path / "_t.parquet.parts" / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(DataError, match=r"_t.parquet.parts: holds diary.txt"):
        label(model, some, out, Options())
    assert mine.read_text() == "mine"
    with pytest.raises(UsageError, match="level: found 9"):
        label(model, some, str(tmp_path / "u.parquet"), Options(level=9))


def test_two_do_not_write_one_table(model: Model, cluster: None, some: str, bucket: str) -> None:
    out = f"{bucket}/t.parquet"

    def again(done: int, total: int) -> None:
        if done < total:
            with pytest.raises(ConflictError, match="is being written by"):
                label(model, some, out, Options())

    assert label(model, some, out, Options(), progress=again).num_rows == 36


JOIN = """
import sys
import pyarrow as pa
from raypose.data.manifests import Manifest, Shard
from raypose.inference import labelling

out, num = sys.argv[1], int(sys.argv[2])
digest = "0" * 64
shards = tuple(
    Shard(name=f"shard-{k:05d}.parquet", num_rows=20_000, num_bytes=1, sha256=digest)
    for k in range(num)
)
manifest = Manifest(num_rows=20_000 * num, labels={"a": 20_000 * num}, shards=shards)
made = labelling.join(out, labelling.parts_url(out), manifest, labelling.Options(), {})
print(made.num_rows, pa.default_memory_pool().max_memory())
"""


def test_the_table_is_put_together_in_little_memory(tmp_path: Path) -> None:
    """Whatever the number of parts: what is held is some of them."""
    out = str(tmp_path / "t.parquet")
    rows = pa.Table.from_pylist(
        [
            {"id": f"{k:032d}", "label": "a", "predicted": "a", "probability": 0.5, "error": ""}
            for k in range(20_000)
        ],
        schema=Options().schema,
    )
    peaks = []
    for num in (5, 20):
        for number in range(num):
            place = tmp_path / "_t.parquet.parts" / f"part-{number:05d}-{PLAN}.parquet"
            place.parent.mkdir(exist_ok=True)
            pq.write_table(rows, place, compression="none")
        done = subprocess.run(
            [sys.executable, "-c", JOIN, out, str(num)], capture_output=True, text=True, check=True
        )
        num_rows, peak = map(int, done.stdout.split())
        assert num_rows == pq.ParquetFile(out).metadata.num_rows == 20_000 * num
        peaks.append(peak)
    assert peaks[1] < 1.3 * peaks[0]


def test_a_part_that_is_not_whole_is_named(tmp_path: Path) -> None:
    out = str(tmp_path / "t.parquet")
    manifest = manifests.Manifest(
        num_rows=2,
        labels={"a": 2},
        shards=(
            manifests.Shard(name="shard-00000.parquet", num_rows=2, num_bytes=1, sha256="0" * 64),
        ),
    )
    place = tmp_path / "_t.parquet.parts" / f"part-00000-{PLAN}.parquet"
    place.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([], schema=Options().schema), place)
    with pytest.raises(DataError, match=rf"part-00000-{PLAN}.parquet: 0 rows where shard-00000"):
        labelling.join(out, labelling.parts_url(out), manifest, Options(), {})
    assert not Path(out).exists()


def test_a_table_that_is_whole_is_cleared_up_after(
    model: Model, cluster: None, some: str, tmp_path: Path
) -> None:
    """As after a kill between its last two steps; a table of other options is not taken for it."""
    out = str(tmp_path / "t.parquet")
    made = label(model, some, out, Options())
    digest = document_hash(labelling._plan(model, some, Options()))[:16]
    left = labelling._part(labelling.parts_url(out), 2, digest)
    storage.write_bytes(left, b"left")
    with pytest.raises(DataError, match="is there already"):
        label(model, some, out, Options(2))
    storage.write_bytes(left, b"left")
    assert label(model, some, out, Options()) == made
    assert not storage.exists(left)
