from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import encoded, photo

from raypose import storage
from raypose.captions import taxonomy
from raypose.config import Packing
from raypose.data import manifests, packing, sources
from raypose.errors import DataError, TaxonomyError, UsageError

YOGA = taxonomy.load("yoga82")
LENIENT = Packing(max_bad_fraction=1)
AWKWARD = [
    "Sitting pose 1 (normal)",
    "Bharadvaja's_Twist_pose_or_Bharadvajasana_I_",
    "Upward_Bow_(Wheel)_Pose_or_Urdhva_Dhanurasana_",
]


def place(base: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return base


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read(listing: sources.Listing) -> dict[str, tuple[str, bytes]]:
    fetch = sources.opened(listing.entries)
    return {entry.id: (entry.label, fetch(entry)) for entry in listing.entries}


def pictures_of(names: list[str]) -> dict[str, bytes]:
    return {name: encoded(photo(40 + k, 30)) for k, name in enumerate(names)}


def parquet(rows: list[dict[str, Any]], names: list[str] | None = None, **options: Any) -> bytes:
    """A file as Hugging Face's datasets write it, with class numbers where there are names."""
    table = pa.Table.from_pylist(rows)
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


@pytest.fixture(params=["local", "s3"])
def lay(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Lay files out in a folder, local or on S3, and return its location."""

    def laid(files: dict[str, bytes | str]) -> str:
        place(tmp_path / "in", files)
        if request.param == "local":
            return str(tmp_path / "in")
        url = request.getfixturevalue("bucket") + "/in"
        storage.upload_folder(tmp_path / "in", url, last="")
        return str(url)

    return laid


def test_each_kind_gives_the_same_pictures(lay: Any) -> None:
    content = pictures_of([f"{label}/{k}.jpg" for label in AWKWARD for k in range(2)])
    rows = [
        {"image": {"bytes": v, "path": k}, "label": AWKWARD.index(k.split("/")[0])}
        for k, v in content.items()
    ]
    lines = [f"f/{k},{k.split('/')[0]}" for k in content]
    numbered = {k.split("/")[0]: YOGA.ids.index(k.split("/")[0]) for k in content}
    base = lay(
        {f"f/{k}": v for k, v in content.items()}
        | {
            "t/a.tar": tar({f"./{k}": v for k, v in content.items()}),
            "p/train-0.parquet": parquet(rows, AWKWARD, row_group_size=4),
            "list.csv": "\ufeffpath,split,class\n"
            + "\n".join(x.replace(",", ",x,") for x in lines),
            "yoga_test.txt": "\n".join(f" f/{k},0,0,{numbered[k.split('/')[0]]}" for k in ()),
        }
    )
    expected = sorted((k.split("/")[0], v) for k, v in content.items())
    for source in ("f", "t", "t/a.tar", "p", "p/train-0.parquet", "list.csv"):
        found = read(sources.find(f"{base}/{source}", classes=YOGA))
        assert sorted(found.values()) == expected, source


def test_webdataset_labels(lay: Any) -> None:
    picture = encoded(photo())
    base = lay(
        {
            "0.tar": tar(
                {"x1.jpg": picture, "x1.cls": b"73", "x2.cls": b"work", "x2.png": picture}
            ),
            "1.tar": tar({"d/x.y.jpg": picture, "d/x.json": b'{"label": 2}', "bare.jpg": picture}),
        }
    )
    listing = sources.find(base)
    labels = {entry.id: entry.label for entry in listing.entries}
    assert labels == {"0/x1.jpg": "73", "0/x2.png": "work", "1/d/x.y.jpg": "2"}
    assert [rejected.id for rejected in listing.rejected] == ["1/bare.jpg"]
    assert "no .cls or .json beside it" in listing.rejected[0].reason
    one = sources.find(f"{base}/1.tar", classes=taxonomy.load("work"))
    assert [entry.label for entry in one.entries] == [taxonomy.load("work").ids[2]]


def test_parquet_rows_without_paths_ids_or_labels(tmp_path: Path) -> None:
    picture = encoded(photo())
    rows = [
        {"picture": picture, "pose": "standing"},
        {"picture": picture, "pose": None},
        {"picture": None, "pose": "lying"},
    ]
    place(tmp_path, {"d/x.parquet": parquet(rows)})
    listing = sources.find(str(tmp_path / "d"))
    assert [entry.id for entry in listing.entries] == ["x.parquet/0000000", "x.parquet/0000002"]
    assert listing.rejected == [("x.parquet/0000001", "has no label")]
    manifest = packing.pack(listing, str(tmp_path / "out"), LENIENT)
    assert manifest.labels == {"standing": 1}
    assert {rejected.reason[:13] for rejected in manifest.rejected} == {
        "has no label",
        "holds no byte",
    }


def yoga82_lines(names: list[str], numbers: dict[str, str]) -> str:
    return "".join(f" {name},{numbers[name.split('/')[0]]}\n" for name in names)


def test_a_list_reports_what_is_downloaded(tmp_path: Path) -> None:
    numbers = {label: f"1,2,{YOGA.ids.index(label)}" for label in AWKWARD}
    names = [f"{label}/{k}.jpg" for label in AWKWARD for k in range(4)]
    have = pictures_of([names[0], names[1], names[4]])
    place(tmp_path, have | {"yoga_train.txt": yoga82_lines(names, numbers)})  # type: ignore[arg-type]
    listing = sources.find(str(tmp_path / "yoga_train.txt"))
    assert listing.listed == dict.fromkeys(sorted(AWKWARD), 4)
    manifest = packing.pack(listing, str(tmp_path / "out"))
    assert manifest.labels == {AWKWARD[1]: 1, AWKWARD[0]: 2}
    assert manifests.read_manifest(str(tmp_path / "out")).listed == listing.listed


def test_a_list_of_which_nothing_is_downloaded(tmp_path: Path) -> None:
    place(tmp_path, {"yoga.txt": "Akarna_Dhanurasana/1.jpg,1,8,0\n"})
    with pytest.raises(
        DataError, match=r"yoga\.txt: none of the 1 pictures that it lists is in its"
    ):
        sources.find(str(tmp_path / "yoga.txt"))


@pytest.mark.parametrize(("split", "lines"), [("train", 20994), ("test", 7456)])
def test_official_lists(shared: Path, tmp_path: Path, split: str, lines: int) -> None:
    path = shared / f"data/yoga82_lists/yoga_{split}.txt"
    one = encoded(photo())
    place(tmp_path, {f"{label}/16.jpg": one for label in YOGA.ids})
    listing = sources.find(str(path), pictures=str(tmp_path))
    assert sum(listing.listed.values()) == lines
    assert set(listing.listed) == set(YOGA.ids)
    assert all((tmp_path / entry.id).is_file() for entry in listing.entries)
    assert [len(level) for level in YOGA.levels] == [20, 6]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "Sitting pose 1 (normal)/1.jpg,1,4",
            "line 2: expected folder/file,level 6,level 20,class",
        ),
        ("Split pose/1.jpg,1,4,57", 'folder "Split pose" is class 57, which is "Sitting pose 1'),
        ("Split pose/1.jpg,1,4,99", 'folder "Split pose" is class 99, which is "none"'),
        ("Akarna_Dhanurasana/2.jpg,1,3,0", "line 2: class 0 lies under two parents"),
    ],
)
def test_faults_in_a_list_are_named(tmp_path: Path, line: str, message: str) -> None:
    place(tmp_path, {"yoga.txt": f"Akarna_Dhanurasana/1.jpg,1,8,0\n{line}\n"})
    with pytest.raises(DataError) as caught:
        sources.find(str(tmp_path / "yoga.txt"))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/yoga.txt: line 2: ")


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tar(pictures_of([f"a/{k}.jpg" for k in range(3)]))
    boundary = 512 + -(-len(encoded(photo(40, 30))) // 512) * 512
    for cut in (700, boundary, boundary + 100, boundary + 700):
        path = tmp_path / "x.tar"
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"x\.tar: cut off or damaged at .*, after \d files .*"):
            sources.find(str(path))
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(DataError, match="cut off or damaged at its first file, after 0 files"):
        sources.find(str(tmp_path / "x.tar"))


@pytest.mark.parametrize(
    ("files", "source", "error", "message"),
    [
        ({"a.tar.gz": b""}, "a.tar.gz", DataError, "what is compressed cannot be read in places"),
        ({"d/x.parquet": b"PAR1 no"}, "d", DataError, r"x\.parquet: cut off or damaged"),
        ({"l.csv": "a,b\n1,2\n"}, "l.csv", DataError, 'no column "path"; found a, b .in a table'),
        ({"l.csv": "path\n1\n"}, "l.csv", DataError, 'no column "label"; found path'),
        ({"l.csv": ""}, "l.csv", DataError, 'is empty; expected lines of path and label'),
        ({"l.csv": "path,label\n"}, "l.csv", DataError, "no pictures found, read as csv; expected"),
        ({"f/x.jpg": b""}, "f", DataError, "no pictures found, read as imagefolder; expected one"),
        ({"f/crouching/1.jpg": b"", "f/squatting/1.jpg": b""}, "f", DataError,
         '"crouching" and "squatting" are both class "squatting"; merge them'),
        ({"f/squating/1.jpg": b""}, "f", TaxonomyError, 'did you mean "squatting"'),
        ({}, "none", DataError, "none: not found; check the path"),
        ({}, "none.csv", DataError, r"none\.csv: not found"),
    ],
)  # fmt: skip
def test_bad_sources_get_one_line(
    tmp_path: Path, files: dict[str, bytes | str], source: str, error: type[Exception], message: str
) -> None:
    place(tmp_path, files)
    with pytest.raises(error, match=message) as caught:
        sources.find(str(tmp_path / source), classes=taxonomy.load("work"))
    assert "\n" not in str(caught.value)


def test_two_spellings_of_one_class_are_refused(tmp_path: Path) -> None:
    place(tmp_path, {"tree pose/1.jpg": b"", "Tree_Pose/1.jpg": b""})
    with pytest.raises(DataError, match='"Tree_Pose" and "tree pose" differ in case'):
        sources.find(str(tmp_path))


def test_unknown_kind_suggests(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no 'webdatset'; did you mean \"webdataset\"\?"):
        sources.find(str(tmp_path), kind="webdatset")


def test_missing_files_repeats_and_empty_classes_are_named(tmp_path: Path) -> None:
    place(tmp_path, {"f/a/1.jpg": encoded(photo()), "l.csv": "path,label\nf/a/1.jpg,a\nf/2.jpg,a\n"
                     "f/a/1.jpg,a\n,a\nf/3.jpg,\n"})  # fmt: skip
    (tmp_path / "f/empty").mkdir()
    manifest = packing.build(str(tmp_path / "l.csv"), str(tmp_path / "out"), LENIENT)
    assert manifest.num_rows == 1
    assert dict(manifest.rejected) == {
        "f/2.jpg": "not found; check the path",
        "f/a/1.jpg": "listed twice",
        "line 5": "no path",
        "f/3.jpg": "has no label",
    }
    folder = packing.build(str(tmp_path / "f"), str(tmp_path / "out2"))
    assert folder.rejected == (("empty/", "class folder holds no picture"),)


def test_drawings_are_a_source(tmp_path: Path) -> None:
    listing = sources.drawings({YOGA.ids[2]: 3}, size=40, seed=7)
    manifest = packing.pack(listing, str(tmp_path / "d"))
    assert manifest.labels == {YOGA.ids[2]: 3}
    again = packing.pack(listing, str(tmp_path / "e"))
    assert again.shards == manifest.shards


@pytest.mark.parametrize("kind", ["auto", "imagefolder"])
def test_sets_are_packed_one_by_one(pictures: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError) as caught:
        sources.find(str(pictures), kind=kind)
    assert str(caught.value) == (
        f"{pictures}: holds sets, not classes (train, val); pack each: "
        f"raypose shards build {pictures}/train DEST/train"
    )
    assert packing.build(str(pictures / "val"), str(tmp_path / "out")).num_rows == 36


@pytest.mark.parametrize(
    ("names", "place", "told", "first"),
    [
        (["Test/a/1.jpg", "TRAIN/a/1.jpg"], "", "TRAIN, Test", "TRAIN"),
        (["valid/a/1.jpg", "testing/a/1.jpg", "notes/1.jpg"], "", "valid, testing", "valid"),
        (["poses/train/a/1.jpg", "poses/val/a/1.jpg"], "/poses", "train, val", "train"),
        (["train/1.jpg", "test/a/1.jpg"], "", "train, test", "test"),
    ],
)
def test_sets_are_seen_by_any_name(
    lay: Any, names: list[str], place: str, told: str, first: str
) -> None:
    base = lay(pictures_of(names))
    with pytest.raises(DataError) as caught:
        sources.find(base)
    assert str(caught.value) == (
        f"{base}{place}: holds sets, not classes ({told}); pack each: "
        f"raypose shards build {base}{place}/{first} DEST/{first}"
    )


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["train/1.jpg", "car/1.jpg"], {"train", "car"}),
        (["train/1.jpg", "test/1.jpg"], {"train", "test"}),
        (["train/steam/1.jpg", "car/1.jpg"], {"train", "car"}),
        (["train/1.jpg", "test/1.jpg", "test/.ipynb_checkpoints/1.jpg"], {"train", "test"}),
        (["x/train/a/1.jpg", "y/val/b/1.jpg"], {"x", "y"}),
        (["x/a/1.jpg", "x/b/1.jpg", "x/1.jpg"], {"x"}),
    ],
)
def test_classes_may_be_called_as_sets_are(lay: Any, names: list[str], labels: set[str]) -> None:
    assert {entry.label for entry in sources.find(lay(pictures_of(names))).entries} == labels


def test_folders_that_tools_make_are_no_classes(lay: Any) -> None:
    names = ["a/1.jpg", "a/.ipynb_checkpoints/2.jpg", ".cache/3.jpg", "__MACOSX/a/4.jpg"]
    listing = sources.find(lay(pictures_of([*names, "_unknown/5.jpg", "a/.hidden.jpg"])))
    assert [entry.id for entry in listing.entries] == ["_unknown/5.jpg", "a/1.jpg"]
    assert listing.rejected == [("__MACOSX/a/4.jpg", "in a folder that a tool made")]
