"""A value becomes a label only where it is one; encodings of strangers are put up with."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.pictures import encoded, photo

from raypose.data import packing, shards, sources
from raypose.data.manifests import Manifest
from raypose.data.sources import rules
from raypose.errors import DataError

JPEG = encoded(photo(24, 24))
SMALL = encoded(photo(8, 8))


def laid(base: Path, names: list[str], content: bytes = JPEG) -> str:
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(base)


def tar(path: Path, files: dict[str, bytes | str]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def table(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> str:
    made = pa.table(columns)
    if features:
        meta = {"huggingface": json.dumps({"info": {"features": features}})}
        made = made.replace_schema_metadata(meta)
    pq.write_table(made, path)
    return str(path)


def labels(source: str, **how: Any) -> dict[str, str]:
    return {entry.id: entry.label for entry in sources.find(source, **how).entries}


@pytest.mark.parametrize(
    ("value", "names", "label"),
    [
        ("Tree", (), "Tree"),
        ("  Tree ", (), "Tree"),
        (3, (), "3"),
        (1, ("Cobra", "Tree"), "Tree"),
        (1.0, ("Cobra", "Tree"), "Tree"),
        (-1, ("Cobra", "Tree"), ""),
        (-1, (), ""),
        ("-1", (), ""),
        (None, (), ""),
        (float("nan"), ("a",), ""),
        ("nan", (), ""),
        ("Pose\u0301", (), "Pos\u00e9"),
    ],
)
def test_what_is_a_label(value: Any, names: tuple[str, ...], label: str) -> None:
    assert rules.label_of(value, names) == label


@pytest.mark.parametrize(
    ("value", "names"),
    [(2, ("a", "b")), (-2, ("a",)), (-2, ()), (1.5, ("a", "b")), (1.0, ()), (True, ("a", "b")),
     (b"Tree", ()), (["Tree"], ()), (1, ("a", None)), ({"a": 1}, ()), ("a\nb", ()), ("a\0", ())],
)  # fmt: skip
def test_what_is_none(value: Any, names: tuple[str, ...]) -> None:
    with pytest.raises(rules.BadLabel, match="its label is"):
        rules.label_of(value, names)


def test_keys_of_tars_end_at_the_last_dot(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "yoga.1.jpg": JPEG, "yoga.1.cls": "Tree", "yoga.2.jpg": JPEG, "yoga.2.cls": "Cobra",
        "7.image.jpg": JPEG, "7.cls": "Crow",
        "./8.JPG": JPEG, "./8.CLS": "Tree",
    }  # fmt: skip
    assert labels(tar(tmp_path / "a.tar", files)) == {
        "yoga.1.jpg": "Tree",
        "yoga.2.jpg": "Cobra",
        "7.image.jpg": "Crow",
        "8.JPG": "Tree",
    }


def test_what_lies_beside_pictures_in_tars(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        ".DS_Store": b"x", "._1.jpg": b"x", "__MACOSX/Tree/._1.jpg": b"x", "Tree/Thumbs.db": b"x",
        "Tree/1.jpg": JPEG, "Tree/1.json": '{"width": 3}', "Tree/1.seg.png": JPEG,
        "Tree/2.jpg": JPEG, "Tree/2.json": '{"label": "Cobra"}', "Tree/2_mask.png": JPEG,
        "3.jpg": JPEG, "3.cls": "Tree", "3.json": '{"caption": "no label here"}',
        "4.jpg": JPEG, "4.cls": "Tree", "4.json": '{"label": "Cobra"}',
    }  # fmt: skip
    listing = sources.find(tar(tmp_path / "a.tar", files))
    assert {entry.id: entry.label for entry in listing.entries} == {
        "Tree/1.jpg": "Tree",
        "Tree/2.jpg": "Cobra",
        "3.jpg": "Tree",
    }
    assert dict(listing.rejected) == {
        "Tree/1.seg.png": "drawn from the picture beside it",
        "Tree/2_mask.png": "drawn from the picture beside it",
        "4.jpg": "has two labels beside it, Cobra and Tree; keep one",
    }
    assert listing.num_refused == 1


@pytest.mark.parametrize("value", ["[1, 2]", "1.5", "true", '{"a": 1}'])
def test_json_labels_that_are_none(tmp_path: Path, value: str) -> None:
    files: dict[str, bytes | str] = {"1.jpg": JPEG, "1.json": f'{{"label": {value}}}'}
    with pytest.raises(DataError, match=r"1\.json: its label is"):
        sources.find(tar(tmp_path / "a.tar", files))


def test_class_numbers_of_parquet(tmp_path: Path) -> None:
    names = {"label": {"names": ["Cobra", "Tree"], "_type": "ClassLabel"}}
    columns = {"image": [JPEG] * 4, "label": [0, -1, 1, None]}
    listing = sources.find(table(tmp_path / "a.parquet", columns, names))
    assert [entry.label for entry in listing.entries] == ["Cobra", "Tree"]
    assert [reason for _, reason in listing.rejected] == ["has no label"] * 2
    assert listing.num_refused == 0
    beyond = sources.find(
        table(tmp_path / "b.parquet", {"image": [JPEG] * 3, "label": [0, 1, 2]}, names)
    )
    assert beyond.num_refused == 1
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be used.*2 class names"):
        packing.pack(beyond, str(tmp_path / "d"))


@pytest.mark.parametrize("column", [[1.5, 2.0], [[1], [2]], [b"a", b"b"], [True, False]])
def test_columns_that_hold_no_labels(tmp_path: Path, column: list[Any]) -> None:
    source = table(tmp_path / "a.parquet", {"image": [JPEG] * 2, "label": column})
    with pytest.raises(DataError, match=r"a\.parquet: column label is .*: convert it"):
        sources.find(source)


@pytest.mark.parametrize(
    "ids", [["anna", "anna", "ben"], [None, None, None], ["a", None, "b"], [1.5, 2.5, 3.5]]
)
def test_an_id_that_tells_nothing_apart_loses_no_row(tmp_path: Path, ids: list[Any]) -> None:
    columns = {"id": ids, "image": [JPEG] * 3, "label": ["Tree", "Cobra", "Tree"]}
    found = labels(table(tmp_path / "a.parquet", columns))
    assert sorted(found.values()) == ["Cobra", "Tree", "Tree"]


def test_the_column_of_pictures_is_the_one_that_says_so(tmp_path: Path) -> None:
    thumbs = {"thumbnail": [SMALL] * 2, "image": [JPEG] * 2, "label": ["a", "b"]}
    said = {"md5": [b"x"] * 2, "photo_2": [JPEG] * 2, "label": ["a", "b"]}
    for columns, features in ((thumbs, None), (said, {"photo_2": {"_type": "Image"}})):
        listing = sources.find(table(tmp_path / "a.parquet", columns, features))
        read = sources.opened(listing.entries)
        assert {read(entry) for entry in listing.entries} == {JPEG}
    with pytest.raises(DataError, match="pictures may be in any of md5, photo_2; name"):
        sources.find(table(tmp_path / "a.parquet", said))


def test_the_class_is_the_folder_under_the_root(tmp_path: Path) -> None:
    names = ["Tree/1.jpg", "Tree/left/2.jpg", "Cobra/3.JPG", "Cobra/x/y/4.jpeg"]
    passed = [".git/5.jpg", "Tree/.ipynb_checkpoints/1.jpg", "Tree/._1.jpg", "Tree/Thumbs.db"]
    found = labels(laid(tmp_path, [*names, *passed]))
    assert found == dict(zip(names, ["Tree", "Tree", "Cobra", "Cobra"], strict=True))


def test_class_folders_that_hold_the_same_folders_are_told(tmp_path: Path, capsys: Any) -> None:
    """Sets by other names, it may be; or views of each class."""
    made = laid(tmp_path, [f"{top}/{pose}/1.jpg" for top in ("fold1", "fold2") for pose in "ab"])
    assert {entry.label for entry in sources.find(made).entries} == {"fold1", "fold2"}
    assert "2 folders are in each class folder, such as a; if" in capsys.readouterr().err
    laid(tmp_path, ["fold3/1.jpg", "fold3/c/1.jpg"])
    sources.find(made)
    assert "in each class folder" not in capsys.readouterr().err


def test_one_folder_around_the_classes_is_asked_about(tmp_path: Path) -> None:
    source = laid(tmp_path, ["all/Tree/1.jpg", "all/Cobra/1.jpg", "README.txt"])
    with pytest.raises(DataError, match=r"holds one folder, all, .* pack that: raypose shards"):
        sources.find(source)


def test_masks_and_texts_beside_pictures_are_left_out(tmp_path: Path) -> None:
    names = ["Tree/1.jpg", "Tree/1.seg.png", "Tree/1_mask.png", "Tree/notes.txt", "Tree/2.jpg"]
    listing = sources.find(laid(tmp_path, names))
    assert [entry.id for entry in listing.entries] == ["Tree/1.jpg", "Tree/2.jpg"]
    assert len(listing.rejected) == 3
    assert listing.num_refused == 0


def test_links_that_loop_and_lead_nowhere(tmp_path: Path) -> None:
    laid(tmp_path / "s", ["Tree/1.jpg", "Cobra/1.jpg"])
    os.symlink(tmp_path / "s", tmp_path / "s/Tree/again")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "s/Tree/2.jpg")
    os.symlink(tmp_path / "s/Cobra/1.jpg", tmp_path / "s/Cobra/3.jpg")
    listing = sources.find(str(tmp_path / "s"))
    assert [entry.id for entry in listing.entries] == ["Cobra/1.jpg", "Cobra/3.jpg", "Tree/1.jpg"]
    assert listing.rejected == [("Tree/2.jpg", "a link that leads nowhere")]


def test_two_spellings_of_accents_are_one_class(tmp_path: Path) -> None:
    name = "Pos\u00e9"
    other = unicodedata.normalize("NFD", name)
    assert name != other
    found = labels(laid(tmp_path, [f"{name}/1.jpg", f"{other}/2.jpg", "b/1.jpg"]))
    assert set(found.values()) == {name, "b"}
    assert len(found) == 3
    (tmp_path / "l.csv").write_text(f"path,label\n{name}/2.jpg,{other}\nb/1.jpg,b\n")
    listing = sources.find(str(tmp_path / "l.csv"))
    read = sources.opened(listing.entries)
    assert [read(entry) == JPEG for entry in listing.entries] == [True, True]
    assert {entry.label for entry in listing.entries} == {name, "b"}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    laid(tmp_path, ["Tree/1.jpg", "Cobra/1.jpg"])
    os.rename(tmp_path / "Tree/1.jpg", os.fsencode(tmp_path / "Tree") + b"/caf\xe9.jpg")
    manifest = packing.build(str(tmp_path), str(tmp_path.parent / f"{tmp_path.name}-d"))
    assert manifest.num_rows == 2
    os.rename(tmp_path / "Cobra", os.fsencode(tmp_path) + b"/Cobr\xe1")
    with pytest.raises(DataError, match=r"Cobr\\\\xe1.* is not UTF-8; rename it"):
        sources.find(str(tmp_path))


SHARD = {"num_rows": 1, "num_bytes": 1, "sha256": "0" * 64}
TEXT = "path,label\nTree/1.jpg,Posici\u00f3n\nCobra/1.jpg,Cobra\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.encode("cp1252"),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode("utf-16"),
        ("sep=;\n" + TEXT.replace(",", ";")).encode(),
        TEXT.replace("path,label", " Path , LABEL ").encode(),
        TEXT.replace("/", "\\").encode(),
        TEXT.replace("label\n", "label,note\n").replace("n\n", f'n,"{"x" * 200_000}"\n')
        .replace("Cobra\n", "Cobra,\n").encode(),
    ],
)  # fmt: skip
def test_tables_as_people_save_them(tmp_path: Path, content: bytes) -> None:
    laid(tmp_path, ["Tree/1.jpg", "Cobra/1.jpg"])
    (tmp_path / "l.csv").write_bytes(content)
    manifest = packing.build(str(tmp_path / "l.csv"), str(tmp_path.parent / f"{tmp_path.name}-d"))
    assert manifest.labels == {"Cobra": 1, "Posici\u00f3n": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label\na\x81\x8d.jpg,x\n", "not UTF-8"),
        (b"path,label\n\xff\xfe\x00", "not UTF-8|zero bytes|no column|cannot"),
        (b'path,label\n"a.jpg,x\nb.jpg,y\n', "line 3: .*quotation mark"),
        (b"", "is empty"),
        (b"path,label,label\na.jpg,x,y\n", "column 'label' is there 2 times"),
        (b"\x00" * 64, "zero bytes"),
        (b"path,label\na.jpg,x\na.jpg,y\n", 'a.jpg is listed as "x" and as "y"; keep one'),
    ],
)
def test_tables_that_cannot_be_read_get_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    laid(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        sources.find(str(tmp_path / "l.csv"))
    assert "\n" not in str(caught.value)


def test_rows_with_a_field_too_many_are_named(tmp_path: Path) -> None:
    laid(tmp_path, ["a.jpg", "b,c.jpg"])
    (tmp_path / "l.csv").write_text("path,label\na.jpg,x\nb,c.jpg,y\n")
    listing = sources.find(str(tmp_path / "l.csv"))
    assert listing.rejected[0].id == "line 3"
    assert "has 3 fields where the header has 2" in listing.rejected[0].reason
    assert listing.num_refused == 1


def test_what_may_be_two_kinds_is_asked_about(tmp_path: Path) -> None:
    laid(tmp_path, ["Tree/1.jpg"])
    table(tmp_path / "a.parquet", {"image": [JPEG], "label": ["a"]})
    with pytest.raises(DataError, match=r"holds \.parquet and class folders; say which by kind="):
        sources.find(str(tmp_path))
    assert labels(str(tmp_path), kind="parquet") == {"a.parquet/0000000": "a"}
    assert labels(str(tmp_path), kind="imagefolder") == {"Tree/1.jpg": "Tree"}


def test_sets_side_by_side_are_asked_about(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        table(tmp_path / f"{name}.parquet", {"image": [JPEG], "label": ["a"]})
    with pytest.raises(DataError, match=r"holds sets side by side \(train, test\)"):
        sources.find(str(tmp_path))


def test_where_a_manifest_lies_it_is_the_list(tmp_path: Path) -> None:
    laid(tmp_path / "s", ["a/1.jpg", "b/1.jpg"])
    manifest = packing.build(str(tmp_path / "s"), str(tmp_path / "d"))
    table(tmp_path / "d/left-over.parquet", {"image": [JPEG], "label": ["ghost"]})
    assert set(labels(str(tmp_path / "d"))) == {"a/1.jpg", "b/1.jpg"}
    (tmp_path / "d" / manifest.shards[0].name).unlink()
    with pytest.raises(DataError, match="not found, and its manifest lists it"):
        sources.find(str(tmp_path / "d"))


@pytest.mark.parametrize(
    "change",
    [
        {
            "shards": [
                {"name": "../precious.txt", "num_rows": 1, "num_bytes": 1, "sha256": "0" * 64}
            ]
        },
        {"shards": [{"name": "shard-00000.parquet"}]},
        {"shards": None},
        {"labels": {"a": -1}},
        {"num_rows": 7},
        {"rejected": [{"id": 3}]},
        {"format": "raypose-shards/9"},
    ],
)
def test_a_malformed_manifest_is_one_line_and_deletes_nothing(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    laid(tmp_path / "s", ["a/1.jpg"])
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    dest = tmp_path / "d"
    packing.build(str(tmp_path / "s"), str(dest))
    place = dest / "MANIFEST.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    for work in (
        lambda: shards.verify(str(dest)),
        lambda: packing.build(str(tmp_path / "s"), str(dest), overwrite=True),
        lambda: sources.find(str(dest)),
    ):
        with pytest.raises(DataError, match=r"MANIFEST\.json: not a manifest of format") as caught:
            work()
        assert "\n" not in str(caught.value)
    assert precious.read_text() == "mine"


def test_manifests_of_before_are_read() -> None:
    document = {
        "format": "raypose-shards/1", "num_rows": 1, "labels": {"a": 1}, "source": "x",
        "shards": [{"name": "shard-00000.parquet", "num_rows": 1, "num_bytes": 9,
                    "sha256": "0" * 64}],
        "rejected": [{"id": "b", "reason": "damaged"}], "listed": None,
    }  # fmt: skip
    made = Manifest.model_validate(document)
    assert made.to_dict() == document
    assert made.rejected == (("b", "damaged"),)


@pytest.mark.parametrize("pair", [("d", "./d/"), ("d", "d/inner"), ("d/inner", "d")])
def test_source_and_destination_do_not_overlap(
    tmp_path: Path, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    laid(tmp_path / pair[0], ["a/1.jpg", "b/1.jpg"])
    with pytest.raises(DataError, match="overlaps the source"):
        packing.build(pair[0], pair[1], overwrite=True)
    os.symlink(tmp_path / pair[0], tmp_path / "link")
    with pytest.raises(DataError, match="overlaps the source"):
        packing.build(pair[0], "link", overwrite=True)
    assert len(list((tmp_path / pair[0]).rglob("*.jpg"))) == 2


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("木のポーズ", "shift_jis"), ("树式瑜伽", "gbk"), ("Дерево", "cp1251"), ("δέντρο", "cp1253")],
)
def test_other_scripts_are_not_read_as_western(tmp_path: Path, text: str, encoding: str) -> None:
    laid(tmp_path, ["a.jpg"])
    (tmp_path / "l.csv").write_bytes(f"path,label\na.jpg,{text}\n".encode(encoding))
    with pytest.raises(DataError, match=r"not UTF-8.*convert it: iconv"):
        sources.find(str(tmp_path / "l.csv"))


def test_only_notes_of_builds_are_cleared_away(tmp_path: Path) -> None:
    laid(tmp_path / "s", ["a/1.jpg"])
    precious = tmp_path / "d/_building/precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("only copy")
    packing.build(str(tmp_path / "s"), str(tmp_path / "d"))
    assert precious.read_text() == "only copy"
