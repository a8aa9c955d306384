from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.pictures import encoded, pack

from raypose import runtime, storage, synthesis
from raypose.captions import taxonomy
from raypose.data import inspection, looks, manifests, packing, shards, sheet, splits
from raypose.data.inspection import Row
from raypose.errors import DataError

LABELS = taxonomy.load("yoga82").ids[:3]


def row(name: str, label: str) -> Row:
    return Row("d", name, label, 90, 60, 1000, 0.5, (0, 0))


@st.composite
def sets(draw: st.DrawFn) -> tuple[list[Row], list[list[int]]]:
    labels = draw(st.lists(st.sampled_from("abc"), min_size=4, max_size=60))
    rows = [row(f"{label}/{k}", label) for k, label in enumerate(labels)]
    order = draw(st.permutations(range(len(rows))))
    cuts = sorted(draw(st.sets(st.integers(1, len(rows) - 1), max_size=8)))
    pieces = np.split(np.array(order), cuts)
    return rows, [piece.tolist() for piece in pieces[::3] if 2 <= len(piece) <= 5]


@settings(deadline=None)
@given(sets(), st.integers(0, 5))
def test_splits_are_whole_stratified_and_keep_twins_together(
    made: tuple[list[Row], list[list[int]]], seed: int
) -> None:
    rows, groups = made
    shares = {"val": 0.2, "test": 0.1}
    split = splits.assign(rows, groups, shares=shares, seed=seed)
    assert split.parts.keys() == {row.id for row in rows}
    for group in groups:
        assert len({split.parts[rows[number].id] for number in group}) == 1
    for label, size in Counter(row.label for row in rows).items():
        for part, share in shares.items():
            count = sum(split.parts[row.id] == part for row in rows if row.label == label)
            assert count <= max(1, round(share * size))
            if not groups and size > 3:
                assert count == max(1, round(share * size))
    again = splits.assign(rows, groups, shares=shares, seed=seed)
    assert again == split


def test_a_draw_follows_from_seed_and_ids() -> None:
    rows = [row(f"a/{k}", "a") for k in range(40)]
    first, other = (splits.assign(rows, [], shares={"val": 0.5}, seed=seed) for seed in (0, 1))
    assert first.parts != other.parts
    assert splits.assign(rows[::-1], [], shares={"val": 0.5}).parts == first.parts
    with pytest.raises(DataError, match=r"shares add up to 1\.1; leave some to train on"):
        splits.assign(rows, [], shares={"val": 0.6, "test": 0.5})


def other(seed: int) -> Image.Image:
    return synthesis.render("Tree_Pose_or_Vrksasana_", seed=seed, size=96)


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set in which each class has a picture, its mirrored copy, and others; some bad."""
    folder = tmp_path_factory.mktemp("doubled")
    contents = {}
    for label in LABELS:
        pictures = [synthesis.render(label, seed=k, size=96) for k in range(6)]
        pictures.append(pictures[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        contents |= {f"{label}/{k}.jpg": encoded(image) for k, image in enumerate(pictures)}
    contents[f"{LABELS[0]}/gone.jpg"] = b"<html>"
    contents[f"{LABELS[0]}/<b>&blank.png"] = encoded(Image.new("RGB", (80, 80), "grey"), "PNG")
    contents[f"{LABELS[1]}/blank.png"] = encoded(Image.new("RGB", (80, 80), "grey"), "PNG")
    contents[f"{LABELS[1]}/strip.jpg"] = encoded(other(50).resize((400, 90)))
    contents[f"{LABELS[2]}/tiny.jpg"] = encoded(other(60).resize((40, 30)))
    contents[f"{LABELS[2]}/stray.jpg"] = contents[f"{LABELS[1]}/3.jpg"]
    pack(contents, str(folder / "d"), folder / "p")
    return str(folder / "d")


def test_twins_are_grouped_and_split_to_one_side(
    doubled: str, tmp_path: Path, cluster: None
) -> None:
    rows = inspection.inspect([doubled], run=runtime.spread(2))
    assert rows == inspection.inspect([doubled])
    groups = inspection.cluster(rows)
    named = {frozenset(rows[number].id for number in group) for group in groups}
    expected = {frozenset({f"{label}/0.jpg", f"{label}/6.jpg"}) for label in LABELS}
    assert named == expected | {frozenset({f"{LABELS[1]}/3.jpg", f"{LABELS[2]}/stray.jpg"})}
    split = splits.assign(rows, groups, shares={"val": 0.3})
    written = splits.write(doubled, str(tmp_path / "s"), split, packing.Packing(check=False))
    assert sum(manifest.num_rows for manifest in written.values()) == len(rows)
    sides = {
        part: {row.id for row in inspection.inspect([str(tmp_path / "s" / part)])}
        for part in ("train", "val")
    }
    assert not sides["train"] & sides["val"]
    for group in named:
        assert group <= sides["train"] or group <= sides["val"]
    with pytest.raises(DataError, match="overlaps what is split"):
        splits.write(str(tmp_path / "s/train"), str(tmp_path / "s"), split, packing.Packing())
    report = storage.read_json(str(tmp_path / "s/split.json"))
    assert sum(report["parts"]["val"].values()) == len(sides["val"])
    assert len(report["groups"]) == 4


def test_features_group_what_hashes_do_not(doubled: str) -> None:
    rows = inspection.inspect([doubled])
    features = np.eye(len(rows), dtype=np.float32)
    alone = sorted(set(range(len(rows))) - {k for g in inspection.cluster(rows) for k in g})
    features[alone[1]] = features[alone[0]]
    assert alone[:2] in inspection.cluster(rows, features=features)


def test_what_stands_out_is_named(doubled: str) -> None:
    rows = inspection.inspect([doubled])
    found = inspection.suspicious(rows, inspection.cluster(rows))
    reasons = {rows[number].id: why for number, why in found}
    assert "not a picture" in reasons.pop(f"{LABELS[0]}/gone.jpg")
    assert reasons == {
        f"{LABELS[0]}/<b>&blank.png": "nearly blank",
        f"{LABELS[1]}/blank.png": "nearly blank",
        f"{LABELS[1]}/strip.jpg": "a strip: 400 × 90 px",
        f"{LABELS[2]}/tiny.jpg": "small: 40 × 30 px",
        f"{LABELS[1]}/3.jpg": f"a twin is labelled {LABELS[2]}: {LABELS[2]}/stray.jpg",
        f"{LABELS[2]}/stray.jpg": f"a twin is labelled {LABELS[1]}: {LABELS[1]}/3.jpg",
    }


def test_a_page_and_a_picture_to_look_at(doubled: str, tmp_path: Path) -> None:
    rows = inspection.inspect([doubled])
    made = sheet.gather(doubled, rows, inspection.cluster(rows), per_class=4)
    sheet.save(made, str(tmp_path / "page.html"))
    text = (tmp_path / "page.html").read_text()
    assert text.count("<img ") == 3 * 4 + 7
    assert "&lt;b&gt;&amp;blank.png: nearly blank" in text
    assert "<b>&blank" not in text
    assert "http" not in text  # it needs nothing beside it
    assert sheet.summary(made).startswith("27 pictures of 3 classes, 9 to 9 each; longer side")
    sheet.save(made, str(tmp_path / "page.png"))
    with Image.open(tmp_path / "page.png") as image:
        assert image.width > 1000


@given(st.integers(1, 40), st.floats(0, 0.49), st.floats(0, 0.49), st.integers(0, 9))
def test_each_part_gets_one_where_there_are_enough(
    size: int, val: float, test: float, seed: int
) -> None:
    rows = [row(f"a/{k}", "a") for k in range(size)]
    shares = {part: share for part, share in (("val", val), ("test", test)) if share}
    split = splits.assign(rows, [], shares=shares, seed=seed)
    counts = split.counts()
    assert counts.get("train", 0) >= 1
    if size > len(shares):
        assert all(counts.get(part, 0) >= 1 for part in shares)
        assert not split.lacking(rows, list(shares))
    elif shares:
        assert split.lacking(rows, list(shares))


def test_what_twins_leave_empty_is_told() -> None:
    rows = [row(f"a/{k}", "a") for k in range(4)] + [row(f"b/{k}", "b") for k in range(4)]
    split = splits.assign(rows, [[0, 1, 2, 3]], shares={"val": 0.25})
    assert split.lacking(rows, ["val"]) == {"val": ["a"]}


def test_a_part_of_another_split_does_not_stay(tmp_path: Path) -> None:
    content = {
        f"{label}/{k}.jpg": encoded(synthesis.render(label, seed=k, size=48))
        for label in LABELS
        for k in range(8)
    }
    pack(content, str(tmp_path / "d"), tmp_path / "p")
    rows = inspection.inspect([str(tmp_path / "d")])
    dest, how = str(tmp_path / "s"), packing.Packing(check=False)
    first = splits.assign(rows, [], shares={"val": 0.2, "test": 0.3})
    splits.write(str(tmp_path / "d"), dest, first, how)
    second = splits.assign(rows, [], shares={"val": 0.2}, seed=9)
    splits.write(str(tmp_path / "d"), dest, second, how, overwrite=True)
    assert not storage.exists(f"{dest}/test/MANIFEST.json")
    assert storage.list_files(f"{dest}/test") == []


def test_what_packing_noted_is_what_is_seen(tmp_path: Path) -> None:
    """Of every picture; and looking reads no picture any more."""
    label = LABELS[0]
    contents = {f"{label}/{k}.jpg": encoded(other(k)) for k in range(5)}
    contents[f"{label}/grey.png"] = encoded(Image.new("L", (80, 80), 7), "PNG")
    noted, read = str(tmp_path / "noted"), str(tmp_path / "read")
    for dest, check in ((noted, True), (read, False)):
        pack(contents, dest, tmp_path / f"p{check}", check=check)
    (shard,) = manifests.read_manifest(noted).shards
    assert shards.read_looks(noted, shard) is not None
    assert shards.read_looks(read, *manifests.read_manifest(read).shards) is None
    both = ([row._replace(data="") for row in inspection.inspect([url])] for url in (noted, read))
    assert next(both) == next(both)
    place = f"{noted}/{shard.name}"
    whole = pq.read_table(place)
    for seen in (None, whole["look"][0].as_py() | {"thumb": b"short"}):
        column = pa.array([seen, *whole["look"].to_pylist()[1:]], looks.LOOK)
        pq.write_table(whole.set_column(3, whole.schema.field("look"), [column]), place)
        told = shard.model_copy(update={"num_bytes": Path(place).stat().st_size})
        assert shards.read_looks(noted, told) is None
    with pytest.raises(DataError, match="is not what the manifest says"):
        shards.read_looks(noted, shard)


def test_what_is_noted_is_of_the_picture_that_is_stored(tmp_path: Path) -> None:
    """Where packing makes it smaller, and at so low a quality that it looks otherwise."""
    for k in range(4):
        place = tmp_path / "p" / LABELS[k % 2] / f"{k}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(other(k)))
    data = str(tmp_path / "d")
    packing.build(str(tmp_path / "p"), data, packing.Packing(max_side=64, quality=1))
    (shard,) = manifests.read_manifest(data).shards
    seen = inspection.inspect([data])
    rows = shards.read_shard(data, shard).to_pylist()
    assert seen == [inspection._inspect_row(data, row) for row in rows]
