from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.pictures import bomb, encoded, photo

from raypose import runtime, storage
from raypose.config import Packing
from raypose.data import manifests, packing, shards
from raypose.data.images import decode
from raypose.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with awkward names, four good pictures, and every bad one."""
    root = tmp_path / "pictures"
    for label in ("Sitting pose 1 (normal)", "Child's_pose"):
        (root / label).mkdir(parents=True)
        for k in range(2):
            (root / label / f"good {k}.jpg").write_bytes(encoded(photo(40 + k, 30)))
    there = root / "Child's_pose"
    (there / "cut.jpg").write_bytes(encoded(photo())[:700])
    (there / "page.jpg").write_bytes(b"<!doctype html><title>gone</title>")
    (there / "bomb.png").write_bytes(bomb(12_000, 12_000))
    exif = Image.Exif()
    exif[0x0112] = 6
    (there / "sideways.jpg").write_bytes(encoded(photo(90, 60), exif=exif))
    (root / "notes.txt").write_text("not in a class folder")
    return root


def lenient(**how: Any) -> Packing:
    """However many pictures are bad."""
    return Packing(max_bad_fraction=1, **how)


def rows(url: str) -> list[dict[str, object]]:
    return [
        row
        for shard in shards.shard_urls(url)
        for row in pq.read_table(io.BytesIO(storage.read_bytes(shard))).to_pylist()
    ]


@pytest.mark.parametrize("place", ["local", "s3"])
def test_bad_pictures_are_named_and_the_rest_is_packed(
    place: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    dest = storage.join(base, "data")
    manifest = packing.build(str(folder), dest, lenient(rows_per_shard=2))
    reasons = {rejected.id: rejected.reason for rejected in manifest.rejected}
    assert reasons["notes.txt"] == "not in a class folder"
    assert "damaged picture" in reasons["Child's_pose/cut.jpg"]
    assert "not a picture" in reasons["Child's_pose/page.jpg"]
    assert "144 megapixels" in reasons["Child's_pose/bomb.png"]
    assert len(reasons) == 4
    assert manifest.labels == {"Child's_pose": 3, "Sitting pose 1 (normal)": 2}
    assert sum(shard.num_rows for shard in manifest.shards) == 5
    assert manifests.read_manifest(dest) == manifest == shards.verify(dest)
    found = {row["id"]: row for row in rows(dest)}
    assert len(found) == 5
    upright = decode(found["Child's_pose/sideways.jpg"]["image"]["bytes"], max_pixels=10**8)  # type: ignore[index]
    assert upright.shape == (90, 60, 3)


def test_layout_is_hugging_faces(folder: Path, tmp_path: Path) -> None:
    packing.build(str(folder), str(tmp_path / "d"), lenient())
    schema = pq.read_schema(next((tmp_path / "d").glob("shard-00000-*.parquet")))
    assert [field.name for field in schema] == ["image", "label", "id", "look"]
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    told = {name: pa.type_for_alias(value["dtype"]) for name, value in features["look"].items()}
    assert schema.field("look").type == pa.struct(told)


def test_same_source_gives_same_shards(folder: Path, tmp_path: Path) -> None:
    made = [
        packing.build(str(folder), str(tmp_path / name), lenient(seed=seed)).shards
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert made[0] == made[1] != made[2]


def test_max_side_stores_small_upright_pictures(folder: Path, tmp_path: Path) -> None:
    packing.build(str(folder), str(tmp_path / "d"), lenient(max_side=32))
    for row in rows(str(tmp_path / "d")):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:  # type: ignore[index]
            assert max(image.size) == 32
            if "sideways" in str(row["id"]):
                assert image.size == (21, 32)


def test_an_existing_data_set_is_not_lost(folder: Path, tmp_path: Path) -> None:
    dest = str(tmp_path / "d")
    first = packing.build(str(folder), dest, lenient(rows_per_shard=1))
    with pytest.raises(DataError, match="already holds a data set; choose another"):
        packing.build(str(folder), dest, lenient())
    assert shards.verify(dest) == first
    second = packing.build(str(folder), dest, lenient(), overwrite=True)
    assert shards.verify(dest) == second
    assert len(storage.list_files(dest)) == len(second.shards) + 1


def test_damage_is_found(folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "d"
    how = lenient(rows_per_shard=2)
    second = dest / packing.build(str(folder), str(dest), how).shards[1].name
    content = bytearray(second.read_bytes())
    content[100] ^= 1
    second.write_bytes(content)
    with pytest.raises(DataError, match=rf"{second.name} is not what the manifest says"):
        shards.verify(str(dest))
    second.unlink()
    with pytest.raises(DataError, match=rf"{second.name}: not found"):
        shards.verify(str(dest))


def test_what_is_no_data_set(folder: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    packing.build(str(folder), str(half), lenient())
    (half / "MANIFEST.json").unlink()
    with pytest.raises(DataError, match=r"no data set here \(MANIFEST.json not found\)"):
        manifests.read_manifest(str(half))
    (half / "MANIFEST.json").write_text('{"format": "raypose-shards/9"}')
    with pytest.raises(DataError, match="not a manifest of format raypose-shards/1"):
        manifests.read_manifest(str(half))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError,
        match="no pictures found, read as imagefolder; expected one folder for each class",
    ):
        packing.build(str(tmp_path / "empty"), str(tmp_path / "e"))


def test_nothing_good_makes_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "src/a").mkdir(parents=True)
    (tmp_path / "src/a/x.jpg").write_bytes(b"no")
    with pytest.raises(
        DataError,
        match=r"nothing to pack: all 1 pictures of .* left out; the first is a/x\.jpg: not",
    ):
        packing.build(str(tmp_path / "src"), str(tmp_path / "d"))
    assert not storage.exists(str(tmp_path / "d/MANIFEST.json"))


class StoppedError(Exception):
    """What ends a build half-way."""


def stopping(after: int) -> packing.Run:
    def run(function: Any, tasks: Any, common: Any) -> Any:
        yield from packing.serial(function, tasks[:after], common)
        raise StoppedError

    return run


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_build_that_was_cut_off_goes_on(
    place: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    dest, how = storage.join(base, "d"), lenient(rows_per_shard=2)
    with pytest.raises(StoppedError):
        packing.build(str(folder), dest, how, run=stopping(2))
    with pytest.raises(DataError, match="no data set here"):
        manifests.read_manifest(dest)
    with pytest.raises(DataError, match="a build that was cut off; give its command again"):
        packing.build(dest, storage.join(base, "copy"))
    ran: list[Any] = []

    def counted(function: Any, tasks: Any, common: Any) -> Any:
        ran.extend(tasks)
        return packing.serial(function, tasks, common)

    told: list[tuple[int, int]] = []
    manifest = packing.build(
        str(folder), dest, how, run=counted, progress=lambda *count: told.append(count)
    )
    assert [task.first for task in ran] == [2, 3]
    assert told == [(6, 8), (8, 8)]
    whole = packing.build(str(folder), storage.join(base, "e"), how)
    assert manifest.shards == whole.shards
    assert storage.list_files(dest, recursive=True) == [
        "MANIFEST.json",
        *(shard.name for shard in whole.shards),
    ]


def test_a_data_set_is_not_packed_onto_itself(folder: Path, tmp_path: Path) -> None:
    dest = str(tmp_path / "d")
    made = packing.build(str(folder), dest, lenient())
    with pytest.raises(DataError, match="overlaps the source"):
        packing.build(f"{dest}/", dest, overwrite=True)
    assert shards.verify(dest) == made


def test_what_another_build_left_is_swept_away(folder: Path, tmp_path: Path) -> None:
    dest = str(tmp_path / "d")
    with pytest.raises(StoppedError):
        packing.build(str(folder), dest, lenient(rows_per_shard=1), run=stopping(8))
    manifest = packing.build(str(folder), dest, lenient(rows_per_shard=4))
    assert storage.list_files(dest, recursive=True) == [
        "MANIFEST.json",
        *(shard.name for shard in manifest.shards),
    ]
    assert shards.verify(dest) == manifest


def test_parquet_is_mixed_over_row_groups_and_packs_the_same_on_ray(
    cluster: None, pictures: Path, bucket: str
) -> None:
    how = lenient(rows_per_shard=12)
    first = packing.build(str(pictures / "train"), f"{bucket}/a", how)
    here = packing.build(f"{bucket}/a", f"{bucket}/b", how)
    spread = packing.build(f"{bucket}/a", f"{bucket}/c", how, run=runtime.spread(2))
    assert here.shards == spread.shards
    assert here.labels == first.labels
    rows_of = [{row["id"]: row["image"] for row in rows(f"{bucket}/{name}")} for name in "ab"]
    assert rows_of[0] == rows_of[1]
    order = [row["id"] for row in rows(f"{bucket}/b")]
    assert order != sorted(order)
    with pytest.raises(DataError, match="already holds a data set"):
        packing.build(f"{bucket}/a", f"{bucket}/c", run=runtime.spread(2))
