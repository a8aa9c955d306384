"""Sources and places as strangers leave them: nothing lost, nothing mislabelled, no traceback."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.pictures import encoded, photo

from raypose import storage
from raypose.captions import taxonomy
from raypose.config import Packing
from raypose.data import (
    claims,
    inspection,
    manifests,
    packing,
    records,
    shards,
    sources,
    splits,
    tasks,
)
from raypose.data.sources import parquet, webdataset
from raypose.errors import ConflictError, DataError, RegistryError, StorageError, TaxonomyError
from raypose.releases import registry

A, B = encoded(photo(24, 24)), encoded(photo(30, 24))
LENIENT = Packing(max_bad_fraction=1)


def laid(base: Path, *names: str, content: bytes = A) -> Path:
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return base


def tar(path: Path, *members: tuple[str, bytes | str], **how: Any) -> Path:
    """A tar; what is text in place of bytes is what a link leads to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **how) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def labels(source: Path | str, **how: Any) -> dict[str, str]:
    return {entry.id: entry.label for entry in sources.find(str(source), **how).entries}


def table(path: Path, columns: dict[str, Any], **how: Any) -> Path:
    pq.write_table(pa.table(columns), path, **how)
    return path


def test_shards_that_lost_their_manifest_are_kept(tmp_path: Path) -> None:
    one, two = laid(tmp_path / "one", "a/1.jpg", "b/1.jpg"), laid(tmp_path / "two", "c/1.jpg")
    packing.build(str(one), str(tmp_path / "d"))
    (tmp_path / "d/MANIFEST.json").unlink()
    (shard,) = (tmp_path / "d").glob("*.parquet")
    with pytest.raises(DataError, match="holds shards without their MANIFEST"):
        packing.build(str(two), str(tmp_path / "d"))
    assert shard.exists()
    packing.build(str(two), str(tmp_path / "d"), overwrite=True)
    assert not shard.exists()


def test_notes_of_builds_are_not_followed_elsewhere(tmp_path: Path) -> None:
    laid(tmp_path / "precious", "plan", "0.json")
    laid(tmp_path / "s", "a/1.jpg", "b/1.jpg")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/_building").symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match="is a link"):
        packing.build(str(tmp_path / "s"), str(tmp_path / "d"), overwrite=True)
    assert {path.name for path in (tmp_path / "precious").iterdir()} == {"plan", "0.json"}


def test_what_links_lead_to_is_not_written_over(tmp_path: Path) -> None:
    laid(tmp_path / "s", "a/1.jpg", "a/2.jpg", "b/1.jpg")
    packing.build(str(tmp_path / "s"), str(tmp_path / "d"), Packing(rows_per_shard=2))
    (tmp_path / "ln").mkdir()
    first, second = sorted((tmp_path / "d").glob("*.parquet"))
    (tmp_path / "ln/x.parquet").symlink_to(first)
    with pytest.raises(DataError, match="holds files of the source"):
        packing.build(str(tmp_path / "ln"), str(tmp_path / "d"), overwrite=True)
    assert first.exists()
    assert second.exists()
    (tmp_path / "l.csv").write_text("path,label\ns/a/1.jpg,a\ns/b/1.jpg,b\n")
    with pytest.raises(DataError, match="holds files of the source"):
        packing.build(str(tmp_path / "l.csv"), str(tmp_path / "s/a"))


def test_all_parts_of_a_split_change_or_none(tmp_path: Path) -> None:
    for k in range(12):
        laid(tmp_path / "s", f"{'ab'[k % 2]}/{k}.jpg", content=encoded(photo(20 + k, 24)))
    data, dest = str(tmp_path / "d"), str(tmp_path / "parts")
    packing.build(str(tmp_path / "s"), data)
    rows = inspection.inspect([data])

    def write(seed: int) -> None:
        split = splits.assign(rows, [], shares={"val": 0.34}, seed=seed)
        splits.write(data, dest, split, Packing(), overwrite=True)

    write(0)
    before = {part: storage.read_bytes(f"{dest}/{part}/MANIFEST.json") for part in ("train", "val")}
    with claims.hold(f"{dest}/val/_building", what="val"), pytest.raises(ConflictError):
        write(1)
    after = {part: storage.read_bytes(f"{dest}/{part}/MANIFEST.json") for part in ("train", "val")}
    assert after == before
    write(1)
    held = [{row.id for row in inspection.inspect([f"{dest}/{part}"])} for part in ("train", "val")]
    assert not held[0] & held[1]
    assert len(held[0] | held[1]) == 12


def test_names_that_tell_rows_of_one_group_apart(tmp_path: Path) -> None:
    pictures = [encoded(photo(20 + k, 24)) for k in range(10)]
    rows = [
        {"image": {"bytes": picture, "path": f"{k % 5}.jpg"}, "label": "ab"[k // 5]}
        for k, picture in enumerate(pictures)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=5)
    listing = sources.find(str(tmp_path / "x.parquet"))
    read = sources.opened(listing.entries)
    found = {read(entry): entry.label for entry in listing.entries}
    assert found == {picture: "ab"[k // 5] for k, picture in enumerate(pictures)}


def test_labels_of_own_shards_are_as_they_were_packed(tmp_path: Path) -> None:
    laid(tmp_path / "s", "nan/1.jpg", "-1/1.jpg", "1.5/1.jpg", "a/1.jpg")
    packing.build(str(tmp_path / "s"), str(tmp_path / "d"))
    assert set(labels(tmp_path / "d").values()) == {"nan", "-1", "1.5", "a"}


def test_a_tar_with_labels_beside_pictures_has_no_class_folders(tmp_path: Path) -> None:
    made = tar(
        tmp_path / "x.tar",
        *((f"data/{k}.jpg", A) for k in range(4)),
        ("data/0.cls", b"tree"), ("data/1.cls", b"cobra"), ("data/2.cls", b"-1"),
    )  # fmt: skip
    listing = sources.find(str(made))
    assert labels(made) == {"data/0.jpg": "tree", "data/1.jpg": "cobra"}
    assert [one.id for one in listing.rejected] == ["data/2.jpg", "data/3.jpg"]


def test_labels_of_one_tar_speak_for_all(tmp_path: Path) -> None:
    tar(tmp_path / "s/0.tar", ("data/0.jpg", A), ("data/0.cls", b"tree"), ("a/1.jpg", A))
    tar(tmp_path / "s/1.tar", ("data/2.jpg", A), ("data/3.jpg", A))
    listing = sources.find(str(tmp_path / "s"))
    assert {entry.id: entry.label for entry in listing.entries} == {"0/data/0.jpg": "tree"}
    assert {one.id for one in listing.rejected} == {"0/a/1.jpg", "1/data/2.jpg", "1/data/3.jpg"}


def test_links_among_labels(tmp_path: Path) -> None:
    members = [("p/0.jpg", A), ("p/0.cls", b"tree"), ("p/1.jpg", B), ("p/1.cls", "0.cls")]
    assert set(labels(tar(tmp_path / "x.tar", *members)).values()) == {"tree"}
    two = [("tree/0.jpg", A), ("cobra/1.jpg", B), ("cobra/0.jpg", "../tree/0.jpg")]
    with pytest.raises(DataError, match=r"and a link to tree/0\.jpg"):
        labels(tar(tmp_path / "y.tar", *two))


def test_links_to_links_in_a_tar(tmp_path: Path) -> None:
    links = [(f"tree/{k}.jpg", f"{k - 1}.jpg") for k in (2, 1)]
    circle = [("tree/3.jpg", "4.jpg"), ("tree/4.jpg", "3.jpg")]
    made = tar(tmp_path / "x.tar", *links, ("tree/0.jpg", A), ("cobra/0.jpg", B), *circle)
    listing = sources.find(str(made))
    told = {entry.id: entry.label for entry in listing.entries}
    assert told == {"cobra/0.jpg": "cobra"} | {f"tree/{k}.jpg": "tree" for k in range(3)}
    assert {one.id for one in listing.rejected} == {"tree/3.jpg", "tree/4.jpg"}


def test_labels_that_are_beside_no_picture(tmp_path: Path) -> None:
    made = tar(
        tmp_path / "x.tar", ("a/1.jpg", A), ("a/meta.json", b'{"label": "nope"}'), ("b/2.jpg", A)
    )
    assert labels(made) == {"a/1.jpg": "a", "b/2.jpg": "b"}
    both = tar(tmp_path / "y.tar", ("1.image.png", A), ("1.label.cls", b"tree"))
    assert labels(both) == {"1.image.png": "tree"}
    with pytest.raises(DataError, match="zero bytes"):
        labels(tar(tmp_path / "z.tar", ("1.jpg", A), ("1.cls", b"cobra\0")))


def test_a_folder_around_the_classes_is_no_class(tmp_path: Path) -> None:
    inside = (("data/tree/1.jpg", A), ("data/cobra/1.jpg", B))
    made = tar(tmp_path / "x.tar", *inside, ("README.jpg", B))
    assert set(labels(made).values()) == {"tree", "cobra"}


def test_tars_that_are_classes_or_sets_are_asked_about(tmp_path: Path) -> None:
    for name, inner in (("c/tree", "images"), ("c/cobra", "images")):
        tar(tmp_path / f"{name}.tar", (f"{inner}/0.jpg", A))
    with pytest.raises(DataError, match="in one folder, images"):
        labels(tmp_path / "c")
    for name in ("s/train-0", "s/val-0"):
        tar(tmp_path / f"{name}.tar", ("a/0.jpg", A), ("b/0.jpg", A))
    with pytest.raises(DataError, match=r"holds sets side by side \(train, val\)"):
        labels(tmp_path / "s")
    for name in ("data-train-0", "data-val-0"):
        (tmp_path / "p").mkdir(exist_ok=True)
        table(tmp_path / f"p/{name}.parquet", {"image": [A, B], "label": ["a", "b"]})
    with pytest.raises(DataError, match="holds sets side by side"):
        labels(tmp_path / "p")


def test_an_archive_that_is_a_link_to_nowhere(tmp_path: Path) -> None:
    table(tmp_path / "0.parquet", {"image": [A, B], "label": ["a", "b"]})
    (tmp_path / "1.parquet").symlink_to("gone.parquet")
    with pytest.raises(DataError, match=r"1\.parquet: a link that leads nowhere"):
        labels(tmp_path)


def test_the_class_folder_of_a_tar_is_the_first_that_differs(tmp_path: Path, capsys: Any) -> None:
    members = [(f"./{name}/s{k}/{k}.jpg", A) for name in ("tree", "cobra") for k in range(2)]
    assert set(labels(tar(tmp_path / "x.tar", *members)).values()) == {"tree", "cobra"}
    assert "in folders below a class folder" in capsys.readouterr().err
    wrapped = [(f"data/{name.removeprefix('./')}", content) for name, content in members]
    assert set(labels(tar(tmp_path / "y.tar", *wrapped)).values()) == {"tree", "cobra"}
    assert "classes are the folders in data/" in capsys.readouterr().err
    sets = [(f"{part}/{name}", content) for part in ("train", "val") for name, content in members]
    with pytest.raises(DataError, match="holds sets, not classes"):
        labels(tar(tmp_path / "z.tar", *sets))


def test_what_else_is_in_tars_is_named(tmp_path: Path) -> None:
    made = tar(
        tmp_path / "x.tar",
        ("a/1.jpg", A), ("a/s.jpg", "1.jpg"), ("b/gone.jpg", "nowhere.jpg"), ("b/2", B),
        ("b/3.heic", B), ("b/notes.txt", b"x"), ("b/2.emb", b"x"), ("../b/4.jpg", A),
        ("b/5.jpg", A), ("b/5.emb", b"beside"),
    )  # fmt: skip
    listing = sources.find(str(made))
    assert {entry.id: entry.label for entry in listing.entries} == {
        "a/1.jpg": "a", "a/s.jpg": "a", "b/2": "b", "b/3.heic": "b", "b/2.emb": "b", "b/5.jpg": "b",
    }  # fmt: skip
    assert {one.id for one in listing.rejected} == {
        "b/gone.jpg", "b/notes.txt", "../b/4.jpg", "b/5.emb",
    }  # fmt: skip
    assert listing.num_refused == 1
    read = sources.opened(listing.entries)
    assert read(next(entry for entry in listing.entries if entry.id == "a/s.jpg")) == A


def test_tars_put_one_behind_the_other(tmp_path: Path) -> None:
    one = tar(tmp_path / "1.tar", ("a/1.jpg", A), ("b/1.jpg", A)).read_bytes()
    two = tar(tmp_path / "2.tar", ("a/2.jpg", A), ("b/2.jpg", A)).read_bytes()
    (tmp_path / "both.tar").write_bytes(one + two)
    with pytest.raises(DataError, match="more behind its end"):
        sources.find(str(tmp_path / "both.tar"))


def test_sizes_in_tars_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(tar(tmp_path / "x.tar", ("a/1.jpg", A), ("b/1.jpg", A)).read_bytes())
    content[124:136] = b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7
    content[148:156] = b"%06o\0 " % (256 + sum(content[:148]) + sum(content[156:512]))
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match="unexpected end of data"):
        sources.find(str(tmp_path / "x.tar"))
    monkeypatch.setattr(webdataset, "LABEL_BYTES", 10)
    with pytest.raises(DataError, match="11 bytes are no label"):
        sources.find(str(tar(tmp_path / "y.tar", ("a/1.jpg", A), ("a/1.json", b"{" * 11))))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_source_that_changes_while_it_is_packed(tmp_path: Path, kind: str) -> None:
    def write(rows: list[tuple[bytes, str]]) -> None:
        path = tmp_path / f"x.{kind}"
        if kind == "tar":
            members = [(f"{label}/1.jpg", content.ljust(9000, b"\0")) for content, label in rows]
            tar(path, *members)
        else:
            table(path, {"image": [row[0] for row in rows], "label": [row[1] for row in rows]})
        os.utime(path, ns=(1, len(rows[0][0])))

    write([(A, "a"), (B, "b")])
    listing = sources.find(str(tmp_path / f"x.{kind}"))
    write([(B, "b"), (A, "a")])
    with pytest.raises(ConflictError, match="has changed since it was listed"):
        packing.pack(listing, str(tmp_path / "d"))
    assert not (tmp_path / "d/MANIFEST.json").exists()


def test_one_picture_by_several_paths_of_a_list(tmp_path: Path) -> None:
    laid(tmp_path, "p/1.jpg", "p/2.jpg")
    for other in ("p/../p/1.jpg", "p//1.jpg", f"{tmp_path}/p/1.jpg", "./p/./1.jpg"):
        (tmp_path / "l.csv").write_text(f"path,label\np/1.jpg,tree\n{other},cobra\n")
        with pytest.raises(DataError, match=r"also as p.1\.jpg; keep one"):
            sources.find(str(tmp_path / "l.csv"))
        (tmp_path / "l.csv").write_text(f"path,label\np/1.jpg,tree\n{other},tree\np/2.jpg,cobra\n")
        assert len(labels(tmp_path / "l.csv")) == 2


def test_links_of_lists(tmp_path: Path) -> None:
    laid(tmp_path, "p/1.jpg", "far/away/x.jpg", "far/1.jpg")
    (tmp_path / "ln").symlink_to("p")
    (tmp_path / "l.csv").write_text("path,label\nln/1.jpg,a\np/1.jpg,b\n")
    with pytest.raises(DataError, match="also as ln/1"):
        labels(tmp_path / "l.csv")
    (tmp_path / "p/up").symlink_to(tmp_path / "far/away")  # p/up/.. is far
    (tmp_path / "far/1.jpg").write_bytes(B)
    (tmp_path / "l.csv").write_text("path,label\np/up/../1.jpg,b\np/1.jpg,a\n")
    listing = sources.find(str(tmp_path / "l.csv"))
    read = sources.opened(listing.entries)
    assert {entry.label: read(entry) for entry in listing.entries} == {"a": A, "b": B}


def test_lists_in_two_encodings(tmp_path: Path) -> None:
    laid(tmp_path, "1.jpg", "2.jpg")
    content = b"path,label\n1.jpg,p\xc3\xa1jaro\n2.jpg,caf\xe9\n"
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(DataError, match="some lines are UTF-8 and some are not"):
        labels(tmp_path / "l.csv")


def test_a_split_does_not_take_its_source_for_a_stale_part(tmp_path: Path) -> None:
    laid(tmp_path / "s", *(f"{name}/{k}.jpg" for name in "ab" for k in range(4)))
    packing.build(str(tmp_path / "s"), str(tmp_path / "d/test"))
    rows = inspection.inspect([str(tmp_path / "d/test")])
    split = splits.assign(rows, [], shares={"val": 0.25})
    with pytest.raises(DataError, match="overlaps what is split"):
        splits.write(
            str(tmp_path / "d/test"), str(tmp_path / "d"), split, Packing(), overwrite=True
        )
    assert shards.verify(str(tmp_path / "d/test")).num_rows == 8


def test_two_spellings_of_accents_side_by_side(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "p/caf\u00e9.jpg") for form in ("NFC", "NFD"))
    laid(tmp_path, one, content=A)
    laid(tmp_path, two, content=B)
    if len(list((tmp_path / "p").iterdir())) < 2:
        pytest.skip("this disk knows one spelling only")
    (tmp_path / "l.csv").write_text(f"path,label\n{one},a\n{two},b\n")
    listing = sources.find(str(tmp_path / "l.csv"))
    read = sources.opened(listing.entries)
    assert {entry.label: read(entry) for entry in listing.entries} == {"a": A, "b": B}


def test_rows_of_lists_that_name_no_file(tmp_path: Path) -> None:
    laid(tmp_path, *(f"p/{k}.jpg" for k in range(4)))
    (tmp_path / "p/dir.jpg").mkdir()
    os.mkfifo(tmp_path / "p/pipe.jpg")
    odd = ["p/dir.jpg", "p/pipe.jpg", "/dev/zero", f"p/{'x' * 300}.jpg", "p/", "s3://bucket"]
    rows = [f"p/{k}.jpg,{'ab'[k % 2]}" for k in range(4)] + [f"{name},a" for name in odd]
    (tmp_path / "l.csv").write_text("\n".join(["path,label", *rows]))
    listing = sources.find(str(tmp_path / "l.csv"))
    assert len(listing.entries) == 4
    assert {one.id for one in listing.rejected} == set(odd)
    assert listing.num_refused == len(odd)


def test_the_stamp_of_a_list_is_of_what_it_names(tmp_path: Path) -> None:
    laid(tmp_path, "p/1.jpg", "p/2.jpg")
    (tmp_path / "l.csv").write_text("path,label\np/1.jpg,a\np/2.jpg,b\n")
    stamp = sources.find(str(tmp_path / "l.csv")).stamp
    laid(tmp_path, "p/notes.log")
    assert sources.find(str(tmp_path / "l.csv")).stamp == stamp
    laid(tmp_path, "p/1.jpg", content=B)
    assert sources.find(str(tmp_path / "l.csv")).stamp != stamp


@pytest.mark.parametrize("name", [" ", "\u200b", "\ufeff"])
def test_class_folders_whose_names_cannot_be_seen(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="has no name to be seen"):
        labels(laid(tmp_path, f"{name}/1.jpg", "b/1.jpg", "c/1.jpg"))


@pytest.mark.parametrize("value", ["1.0", "[1, 2]", "b'x'", "-3", "a\u2028b"])
def test_text_that_stands_for_no_label(tmp_path: Path, value: str) -> None:
    laid(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "l.csv").write_text(f'path,label\n1.jpg,"{value}"\n2.jpg,\ufefftree\u200b\n')
    listing = sources.find(str(tmp_path / "l.csv"))
    assert [entry.label for entry in listing.entries] == ["tree"]
    assert listing.num_refused == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tr\u200bee", "tree"),
        ("\uff34ree", "tree"),
        ("tree\ufe0f", "tree"),
        ("a\u2010b", "a-b"),
        ("01", "1"),
        ("\u0663", "3"),
    ],
)
def test_labels_that_look_the_same(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(DataError, match="differ in case, spaces or dashes alone"):
        labels(laid(tmp_path, f"{one}/1.jpg", f"{other}/1.jpg"))


@pytest.mark.parametrize(
    ("ids", "given"),
    [
        (["1", "2", "3", "4"], ["0", "1", "2", "3"]),
        (["1", "2", "3", "4"], ["0", "2"]),
        (["Cobra", "Crow", "Tree"], ["Cobra", "Crow", "1"]),
        (["Cobra", "Crow", "Tree"], ["Cobra", "2"]),
    ],
)
def test_class_numbers_among_labels_of_cards(
    tmp_path: Path, capsys: Any, ids: list[str], given: list[str]
) -> None:
    """Read one by one, two classes would become one, or one be taken for another."""
    cards = [{"id": name, "names": [f"pose {name}"]} for name in ids]
    classes = taxonomy.parse({"name": "t", "classes": cards}, where="t")
    laid(tmp_path, *(f"{label}/{k}.jpg" for label in given for k in range(2)))
    with pytest.raises(DataError, match=r"some labels are class numbers, .* in one way"):
        labels(tmp_path, classes=classes)
    assert set(labels(tmp_path).values()) == {*given}
    told = "some labels are class numbers" in capsys.readouterr().err
    assert told != all(map(str.isdecimal, given))


def test_what_stands_twice_in_a_tar(tmp_path: Path) -> None:
    """The last counts, of pictures and labels, as where a tar is unpacked; the first is named."""
    whole = [(f"{k}.{end}", A if end == "jpg" else b"Crow") for k in "ab" for end in ("jpg", "cls")]
    again = [("z.jpg", A), ("z.cls", b"Tree"), ("z.jpg", B), ("z.cls", b"Cobra")]
    made = tar(tmp_path / "t.tar", *whole, *again)
    listing = sources.find(str(made))
    (last,) = [entry for entry in listing.entries if entry.id == "z.jpg"]
    assert (last.label, sources.opened([last])(last)) == ("Cobra", B)
    assert [one.id for one in listing.rejected] == ["z.jpg", "z.cls"]
    assert {one.reason for one in listing.rejected} == {webdataset.AGAIN}
    made = tar(tmp_path / "u.tar", *whole, ("z.jpg", A), ("z.json", b'{"label": 1, "label": 2}'))
    with pytest.raises(DataError, match=r"z\.json: label stands there twice; mend it"):
        sources.find(str(made))


@pytest.mark.parametrize(
    ("twice", "label"),
    [
        ([("b.cls", "a.cls"), ("b.cls", b"Cobra")], "Cobra"),
        ([("b.cls", b"Cobra"), ("b.cls", "a.cls")], "Tree"),
        ([("b.cls", "none.cls"), ("b.cls", b"Cobra")], "Cobra"),
        ([("b.json", b"{"), ("b.json", b'{"label": "Cobra"}')], "Cobra"),
        ([("b.cls", b"Cobra"), ("b.cls", "b.cls")], "Cobra"),
    ],
)
def test_links_stand_twice_in_a_tar_as_files_do(
    tmp_path: Path, twice: list[tuple[str, bytes | str]], label: str
) -> None:
    made = tar(tmp_path / "t.tar", ("a.jpg", A), ("a.cls", b"Tree"), ("b.jpg", B), *twice)
    listing = sources.find(str(made))
    assert {entry.id: entry.label for entry in listing.entries} == {"a.jpg": "Tree", "b.jpg": label}
    assert [(one.id, one.reason) for one in listing.rejected] == [(twice[0][0], webdataset.AGAIN)]


@pytest.mark.parametrize(
    ("twice", "content"),
    [(["a.jpg", B], B), ([B, "a.jpg"], A), ([B, "b.jpg"], B), (["b.jpg", B], B)],
)
def test_a_picture_and_a_link_of_its_name(
    tmp_path: Path, twice: list[bytes | str], content: bytes
) -> None:
    members = [("Tree/b.jpg", one) for one in twice]
    made = tar(tmp_path / "t.tar", ("Tree/a.jpg", A), *members, ("Crow/c.jpg", A))
    listing = sources.find(str(made))
    (found,) = [entry for entry in listing.entries if entry.id == "Tree/b.jpg"]
    assert sources.opened([found])(found) == content
    assert [one.id for one in listing.rejected] == ["Tree/b.jpg"]


def test_a_class_that_has_no_name(tmp_path: Path) -> None:
    made = table(tmp_path / "p.parquet", {"image": [A, B, A], "label": [0, 1, 2]})
    names = json.dumps({"info": {"features": {"label": {"names": ["Tree", None, "Crow"]}}}})
    read = pq.read_table(made).replace_schema_metadata({"huggingface": names})
    pq.write_table(read, made)
    listing = sources.find(str(made))
    assert [entry.label for entry in listing.entries] == ["Tree", "Crow"]
    (one,) = listing.rejected
    assert "its label is 1, and the name of that class is no text" in one.reason


@pytest.mark.parametrize("more", ["b.tar", "x/b.TAR", "b.tar.gz", "b.7z"])
def test_containers_in_folders_below_are_not_lost(tmp_path: Path, more: str) -> None:
    laid(tmp_path, f"more/{more}")
    (tmp_path / "more" / ".hidden").mkdir()
    for name in ("a.tar", "b.tar"):
        tar(tmp_path / name, ("Tree/1.jpg", A), ("Crow/1.jpg", A))
    with pytest.raises(DataError, match="and more in folders below, such as more/"):
        sources.find(str(tmp_path))
    (tmp_path / "more").rename(tmp_path / ".more")
    assert len(sources.find(str(tmp_path)).entries) == 4


@pytest.mark.parametrize("name", ["c.arrow", "more.tgz.part", "LICENSE", "x.jpg"])
def test_what_lies_beside_containers_and_is_not_known_is_named(tmp_path: Path, name: str) -> None:
    tar(laid(tmp_path, name) / "a.tar", ("Tree/1.jpg", A), ("Crow/1.jpg", A))
    assert [one.id for one in sources.find(str(tmp_path)).rejected] == [name]


def test_what_tables_write_for_nothing(tmp_path: Path, capsys: Any) -> None:
    nothing = ["NULL", "n/a", "NaT", "#N/A", "<NA>"]
    given = ["Tree", "Crow", *nothing, "None"]
    laid(tmp_path, *(f"{k}.jpg" for k in range(len(given))))
    lines = [f"{k}.jpg,{label}" for k, label in enumerate(given)]
    (tmp_path / "l.csv").write_text("\n".join(["path,label", *lines]))
    listing = sources.find(str(tmp_path / "l.csv"))
    assert {entry.label for entry in listing.entries} == {"Tree", "Crow", "None"}
    assert len(listing.rejected) == len(nothing)
    assert '"None" is taken for a class' in capsys.readouterr().err


@pytest.mark.parametrize("url", ["gs://b/x", "S3://b/x", "s3:/b/x", "file:///x", "~nosuchuser/x"])
def test_locations_of_other_schemes(tmp_path: Path, url: str, monkeypatch: Any) -> None:
    laid(tmp_path / "s", "a/1.jpg", "b/1.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"unknown scheme|no such user"):
        packing.build(str(tmp_path / "s"), url)
    monkeypatch.setenv("RAYPOSE_STORAGE", url)
    with pytest.raises(DataError, match=r"unknown scheme|no such user"):
        storage.default_root()
    assert {path.name for path in tmp_path.iterdir()} == {"s"}
    with pytest.raises(DataError, match="mean nothing on S3"):
        storage.absolute("s3://bucket/./x")
    with pytest.raises(DataError, match="names no bucket"):
        storage.join("s3://", "x")


def test_a_registry_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(RegistryError, match="is a file"):
        registry.names(str(tmp_path / "f"))


@pytest.mark.parametrize("target", ["loop.jpg", "1.jpg/x.jpg", "x" * 300, "/nowhere/1.jpg"])
def test_links_that_lead_nowhere(tmp_path: Path, target: str) -> None:
    laid(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a/loop.jpg").symlink_to(target)
    listing = sources.find(str(tmp_path))
    assert len(listing.entries) == 2
    assert listing.rejected == [("a/loop.jpg", "a link that leads nowhere")]


def test_folders_that_link_to_each_other(tmp_path: Path) -> None:
    laid(tmp_path / "s", *(f"c{k}/1.jpg" for k in range(9)))
    laid(tmp_path / "pool", "1.jpg")
    for k in range(9):
        for other in range(9):
            if other != k:
                (tmp_path / f"s/c{k}/see{other}").symlink_to(f"../c{other}")
    with pytest.raises(DataError, match="are one file, by a link, in two class folders"):
        labels(tmp_path / "s")
    other = tmp_path / "other"
    laid(other, "tree/1.jpg", "__pool/x/2.jpg")
    (other / "cobra").symlink_to(tmp_path / "pool")
    (other / "boat").symlink_to("__pool/x")
    (tmp_path / "pool/more").symlink_to(tmp_path / "s")
    listing = sources.find(str(other))
    assert {entry.id: entry.label for entry in listing.entries} == {
        "tree/1.jpg": "tree", "cobra/1.jpg": "cobra", "boat/2.jpg": "boat",
    }  # fmt: skip
    assert ("cobra/more", "a link within a folder that is linked itself") in listing.rejected


def test_files_too_large_for_pictures(tmp_path: Path) -> None:
    laid(tmp_path, "a/1.jpg", "b/1.jpg")
    with (tmp_path / "a/clip.webm").open("wb") as file:
        file.truncate(1 << 30)
    listing = sources.find(str(tmp_path))
    assert [one.id for one in listing.rejected] == ["a/clip.webm"]
    assert listing.num_refused == 1
    (tmp_path / "a/clip.webm").rename(tmp_path / "a/clip.mp4")  # which says that it is no picture
    assert sources.find(str(tmp_path)).num_refused == 0
    (tmp_path / "a/clip.mp4").rename(tmp_path / "a/clip.webm")
    (tmp_path / "l.csv").write_text("path,label\na/1.jpg,a\na/clip.webm,b\n")
    assert sources.find(str(tmp_path / "l.csv")).num_refused == 1


def test_one_stray_label_does_not_drop_a_tar_in_silence(tmp_path: Path) -> None:
    members = [(f"{name}/{k}.jpg", A) for name in ("tree", "cobra") for k in range(3)]
    listing = sources.find(str(tar(tmp_path / "x.tar", *members, ("tree/1.cls", b"oak"))))
    assert listing.num_refused == 5
    dead = tar(tmp_path / "y.tar", ("a/0.jpg", A), ("a/0.cls", "../l/none.cls"), ("b/1.jpg", B))
    with pytest.raises(DataError, match="a link that leads to no label"):
        labels(dead)


def test_a_shard_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    listing, place = cut_off(tmp_path)
    (shard,) = (tmp_path / "d").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:100])
    assert place.exists()
    packing.pack(listing, str(tmp_path / "d"), LENIENT)
    assert shards.verify(str(tmp_path / "d")).num_rows == 4


def test_a_part_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    laid(tmp_path / "s", *(f"{name}/{k}.jpg" for name in "ab" for k in range(4)))
    for name in ("orig", "precious"):
        packing.build(str(tmp_path / "s"), str(tmp_path / name))
    (tmp_path / "e").mkdir()
    (tmp_path / "e/test").symlink_to(tmp_path / "precious")
    split = splits.assign(inspection.inspect([str(tmp_path / "orig")]), [], shares={"val": 0.25})
    with pytest.raises(DataError, match="is a link to another data set"):
        splits.write(str(tmp_path / "orig"), str(tmp_path / "e"), split, Packing(), overwrite=True)
    assert shards.verify(str(tmp_path / "precious")).num_rows == 8


@pytest.fixture
def bottomless() -> Iterator[Path]:
    """1,200 folders in each other; not in pytest's own, whose removal would end in their depth."""
    place = Path(tempfile.mkdtemp())
    try:
        here = os.open(place, os.O_RDONLY)
        for _ in range(1200):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        yield place
    finally:
        subprocess.run(["rm", "-rf", place], check=True)  # shutil goes no deeper either


def test_what_nests_without_end(bottomless: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lie too deep"):
        sources.find(str(bottomless))
    nested = pa.array([{"bytes": {"bytes": A}}])
    with pytest.raises(DataError, match="no column of pictures"):
        sources.find(str(table(tmp_path / "x.parquet", {"image": nested, "label": ["a"]})))


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    made = table(tmp_path / "x.parquet", {"image": [A] * 9, "label": ["a", "b", "c"] * 3})
    content = bytearray(made.read_bytes())
    content[4:60] = b"\x5a" * 56
    made.write_bytes(content)
    with pytest.raises(DataError, match="cut off or damaged"):
        packing.build(str(made), str(tmp_path / "d"))
    bad = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")],
    )
    with pytest.raises(DataError, match="not UTF-8"):
        sources.find(str(table(tmp_path / "y.parquet", {"image": [A, B], "label": bad})))
    twice = pa.Table.from_arrays(
        [pa.array([A]), pa.array([A]), pa.array(["a"])], ["image", "image", "label"]
    )
    pq.write_table(twice, tmp_path / "z.parquet")
    with pytest.raises(DataError, match="more than once"):
        sources.find(str(tmp_path / "z.parquet"))
    listed = [{"bytes": A, "path": ["x"]}]
    assert len(labels(table(tmp_path / "p.parquet", {"image": listed, "label": ["a"]}))) == 1


def test_a_folder_called_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").mkdir()
    table(tmp_path / "x.parquet/part-0.parquet", {"image": [A, B], "label": ["a", "b"]})
    assert len(labels(tmp_path / "x.parquet")) == 2


def test_parquet_that_is_small_on_disk_only(tmp_path: Path, monkeypatch: Any) -> None:
    rows = 200_000
    few = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([b"x"], pa.binary()))
    one = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), pa.array(["a"])).cast(pa.string())
    columns = {"image": few.cast(pa.binary()), "label": one}
    with pytest.raises(DataError, match="the same few values"):
        sources.find(str(table(tmp_path / "x.parquet", columns, row_group_size=rows)))
    monkeypatch.setattr(parquet, "EXPANDED_BYTES", 50 * len(A))
    often = pa.DictionaryArray.from_arrays(np.zeros(400, np.int32), pa.array([A], pa.binary()))
    for how in ({}, {"store_schema": False}):
        made = table(tmp_path / "y.parquet", {"image": often, "label": ["a", "b"] * 200}, **how)
        listing = sources.find(str(made))
        with pytest.raises(DataError, match="the same over and over"):
            packing.pack(listing, str(tmp_path / "d"))


def test_names_that_are_not_utf8_are_left_out_by_name(tmp_path: Path) -> None:
    laid(tmp_path / "s", "a/1.jpg", "b/1.jpg", "__MACOSX/x.jpg")
    os.rename(tmp_path / "s/__MACOSX/x.jpg", os.fsencode(tmp_path / "s/__MACOSX") + b"/caf\xe9.jpg")
    os.mkdir(os.fsencode(tmp_path / "s") + b"/caf\xe9")
    manifest = packing.build(str(tmp_path / "s"), str(tmp_path / "d"))
    assert {one.id for one in manifest.rejected} == {"__MACOSX/caf\\xe9.jpg", "caf\\xe9/"}


@pytest.mark.parametrize(
    "fault", [{"at": 1e15}, {"at": float("nan")}, {"pid": 10**12}, {"pid": -1}, {"pid": 10**30}]
)
def test_claims_of_strangers(tmp_path: Path, fault: dict[str, Any]) -> None:
    laid(tmp_path / "s", "a/1.jpg", "b/1.jpg")
    claim = {"holder": "a", "host": "x", "pid": 1, "at": time.time()} | fault
    laid(tmp_path, "d/_building/claim.json", content=json.dumps(claim).encode())
    with pytest.raises(DataError, match="not a claim"):
        packing.build(str(tmp_path / "s"), str(tmp_path / "d"))


def test_a_claim_of_the_future_has_lapsed(tmp_path: Path) -> None:
    laid(tmp_path / "s", "a/1.jpg", "b/1.jpg")
    claim = {"holder": "a", "host": "x", "pid": 1, "at": time.time() + 1e6}
    laid(tmp_path, "d/_building/claim.json", content=json.dumps(claim).encode())
    assert packing.build(str(tmp_path / "s"), str(tmp_path / "d")).num_rows == 2


def cut_off(tmp_path: Path) -> tuple[sources.Listing, Path]:
    """A build that waits for somebody to say that a bad picture may be left out."""
    laid(tmp_path / "s", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
    laid(tmp_path / "s", "b/bad.jpg", content=b"no picture")
    listing = sources.find(str(tmp_path / "s"))
    with pytest.raises(DataError, match="cannot be used"):
        packing.pack(listing, str(tmp_path / "d"))
    return listing, tmp_path / "d/_building/0.json"


@pytest.mark.parametrize(
    "fault", [{"labels": {"a": 7}}, {"num_read": 3}, {"rejected": []}, {"shards": []}]
)
def test_records_that_do_not_add_up(tmp_path: Path, fault: dict[str, Any]) -> None:
    listing, place = cut_off(tmp_path)
    place.write_text(json.dumps(json.loads(place.read_text()) | fault))
    with pytest.raises(DataError, match="not the record of a build"):
        packing.pack(listing, str(tmp_path / "d"), LENIENT)


def test_records_of_other_classes_are_not_believed(tmp_path: Path) -> None:
    listing, place = cut_off(tmp_path)
    place.write_text(json.dumps(json.loads(place.read_text()) | {"labels": {"zebra": 4}}))
    assert packing.pack(listing, str(tmp_path / "d"), LENIENT).labels == {"a": 2, "b": 2}


def test_a_plan_that_is_no_text(tmp_path: Path) -> None:
    listing, place = cut_off(tmp_path)
    (place.parent / "plan").write_bytes(b"\xff\xfe")
    assert packing.pack(listing, str(tmp_path / "d"), LENIENT).num_rows == 4


def test_what_killed_writers_left_is_cleared_away(tmp_path: Path) -> None:
    listing, place = cut_off(tmp_path)
    left = [
        tmp_path / "d/.shard-00000-12345678.parquet.0123abcd.part",
        tmp_path / "d/_building/.0.json.0123abcd.part",
        tmp_path / "d/_building/.claim.json.lock",
    ]
    for path in left:
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    packing.pack(listing, str(tmp_path / "d"), LENIENT)
    assert not any(path.exists() for path in left)
    assert not place.parent.exists()


def test_a_build_that_ended_between_closing_and_clearing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, dest = str(laid(tmp_path / "s", "a/1.jpg", "b/1.jpg")), str(tmp_path / "d")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(records, "sweep", killed)
        with pytest.raises(KeyboardInterrupt):
            packing.build(source, dest)
    assert (tmp_path / "d/MANIFEST.json").exists()
    assert packing.build(source, dest).num_rows == 2
    assert not (tmp_path / "d/_building").exists()
    with pytest.raises(DataError, match="already holds a data set"):
        packing.build(source, dest)


def crafted(tmp_path: Path, made: pa.Table, **fault: Any) -> str:
    """A data set whose one shard is what its manifest says in bytes and rows."""
    sink = io.BytesIO()
    pq.write_table(made, sink)
    content = sink.getvalue()
    digest = storage.sha256(content)
    name = f"shard-00000-{digest[:8]}.parquet"
    laid(tmp_path / "m", name, content=content)
    shard = {"name": name, "num_rows": len(made), "num_bytes": len(content), "sha256": digest}
    known = {"format": manifests.FORMAT, "num_rows": len(made), "labels": {"a": len(made)}}
    document = known | {"shards": [shard]} | fault
    laid(tmp_path / "m", "MANIFEST.json", content=json.dumps(document).encode())
    return str(tmp_path / "m")


PICTURE = {"bytes": A, "path": "x"}
WRONG: dict[str, dict[str, Any]] = {
    "no label": {"label": pa.array([None, "a"], pa.string())},
    "no picture": {"image": [PICTURE, None]},
    "one id": {"id": ["1", "1"]},
    "no id": {"id": pa.array([None, "2"], pa.string())},
    "text for a picture": {"image": ["x", "y"]},
    "numbers for labels": {"label": [1, 2]},
    "another label": {"label": ["a", "b"]},
}


@pytest.mark.parametrize("what", WRONG)
def test_shards_that_are_not_what_their_manifest_says(tmp_path: Path, what: str) -> None:
    right = {"image": [PICTURE, PICTURE], "label": ["a", "a"], "id": ["1", "2"]}
    shards.verify(crafted(tmp_path, pa.table(right)))
    url = crafted(tmp_path, pa.table(right | WRONG[what]))
    with pytest.raises(DataError, match=r"is not what the manifest says|bear the same id"):
        shards.verify(url)
    with pytest.raises(DataError):
        packing.build(url, str(tmp_path / "d"))


def test_a_manifest_that_lists_a_shard_twice(tmp_path: Path) -> None:
    made = pa.table({"image": [PICTURE], "label": ["a"], "id": ["1"]})
    url = crafted(tmp_path, made)
    shard = json.loads((tmp_path / "m/MANIFEST.json").read_text())["shards"][0]
    crafted(tmp_path, made, num_rows=2, labels={"a": 2}, shards=[shard, shard])
    with pytest.raises(DataError, match="a shard is listed twice"):
        shards.verify(url)


def test_numbers_of_thousands_of_digits(tmp_path: Path) -> None:
    many = "1" * 5000
    made = tar(tmp_path / "x.tar", ("1.jpg", A), ("1.json", b'{"label": %s}' % many.encode()))
    with pytest.raises(DataError, match="not JSON"):
        sources.find(str(made))
    (tmp_path / "y.txt").write_text(f"Akarna_Dhanurasana/1.jpg,0,0,{many}\n")
    with pytest.raises(DataError, match="line 1: expected"):
        sources.find(str(tmp_path / "y.txt"))
    laid(tmp_path, "1.jpg")
    (tmp_path / "l.csv").write_text(f"path,label\n1.jpg,{many}\n")
    with pytest.raises(TaxonomyError, match="not in taxonomy"):
        sources.find(str(tmp_path / "l.csv"), classes=taxonomy.load("work"))


def test_cards_whose_labels_have_their_accents_apart(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "caf\u00e9")
    alias = unicodedata.normalize("NFD", "th\u00e9")
    cards = {"name": "t", "classes": [
        {"id": name, "names": ["coffee"], "aliases": [alias]}, {"id": "b", "names": ["b"]},
    ]}  # fmt: skip
    classes = taxonomy.parse(cards, where="t")
    laid(tmp_path, f"{name}/1.jpg", "b/1.jpg")
    assert set(labels(tmp_path, classes=classes).values()) == {"caf\u00e9", "b"}
    assert classes.counts({"th\u00e9": 2, "b": 1}) == {"caf\u00e9": 2, "b": 1}


def test_large_pictures_are_held_a_few_at_a_time(tmp_path: Path, monkeypatch: Any) -> None:
    laid(tmp_path / "s", *(f"{'ab'[k % 2]}/{k}.jpg" for k in range(40)))
    monkeypatch.setattr(tasks, "SHARD_BYTES", 3 * len(A))
    manifest = packing.build(str(tmp_path / "s"), str(tmp_path / "d"))
    assert max(shard.num_rows for shard in manifest.shards) == 3
    assert manifest.num_rows == 40


def test_what_lies_beside_pictures_in_a_tar_is_named(tmp_path: Path) -> None:
    made = tar(tmp_path / "x.tar", ("a/1.jpg", A), ("a/1.heic", b"ftyp"), ("b/2.jpg", B))
    listing = sources.find(str(made))
    assert [entry.id for entry in listing.entries] == ["a/1.jpg", "b/2.jpg"]
    assert [one.id for one in listing.rejected] == ["a/1.heic"]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_what_lies_beside_containers(tmp_path: Path, kind: str) -> None:
    if kind == "tar":
        tar(tmp_path / "s/x.tar", ("a/1.jpg", A), ("b/2.jpg", B))
    else:
        (tmp_path / "s").mkdir()
        table(tmp_path / "s/x.parquet", {"image": [A, B], "label": ["a", "b"]})
    laid(tmp_path / "s", "loose.jpg", "README.md")
    listing = sources.find(str(tmp_path / "s"))
    assert sorted(entry.label for entry in listing.entries) == ["a", "b"]
    assert [one.id for one in listing.rejected] == ["loose.jpg"]
    laid(tmp_path / "s", "more.tar.gz")
    with pytest.raises(DataError, match=r"more.tar.gz: compressed, and beside files of"):
        sources.find(str(tmp_path / "s"))


def test_dots_in_folders_of_a_tar(tmp_path: Path) -> None:
    made = tar(
        tmp_path / "x.tar",
        *[(f"v1.0/{name}/{k}", A) for name in ("tree", "boat") for k in range(2)],
    )
    assert {*labels(made).values()} == {"tree", "boat"}


def test_joints_in_json_are_no_label(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = [
        {"pose": [[0.1, 0.2]], "class": "tree"},
        {"label": None, "class": "boat"},
        {"pose": {"hip": [0, 1]}, "label": "tree"},
    ]
    members = []
    for k, document in enumerate(told):
        members += [(f"{k}.jpg", A), (f"{k}.json", json.dumps(document).encode())]
    assert [*labels(tar(tmp_path / "x.tar", *members)).values()] == ["tree", "boat", "tree"]
    silent = [(f"{'ab'[k % 2]}/{k}.jpg", A) for k in range(4)]
    silent += [
        (f"{'ab'[k % 2]}/{k}.json", b'{"pose": null}' if k else b'{"pose": [1]}') for k in range(4)
    ]
    silent += [("info.json", b'{"labels": ["a", "b"]}'), ("log.json", b"{}\n{}")]
    assert [*labels(tar(tmp_path / "z.tar", *silent)).values()] == ["a", "b", "a", "b"]
    members[1] = ("0.json", json.dumps({"label": [1, 2]}).encode())
    with pytest.raises(DataError, match="a label is text or a class number"):
        labels(tar(tmp_path / "y.tar", *members))


def test_class_numbers_beside_class_names(tmp_path: Path, capsys: Any) -> None:
    """As both kinds of WebDataset's labels say it: one class, if they agree throughout."""
    members: list[tuple[str, bytes | str]] = []
    for k, (number, name) in enumerate([(3, "tree"), (5, "boat"), (3, "tree")]):
        said = json.dumps({"label": name}).encode()
        members += [(f"{k}.jpg", A), (f"{k}.cls", b"%d" % number), (f"{k}.json", said)]
    members += [("9.jpg", B), ("9.cls", b"3")]
    found = labels(tar(tmp_path / "x.tar", *members))
    assert [*found.values()] == ["tree", "boat", "tree", "tree"]
    assert "3, tree" in capsys.readouterr().err
    members[-1] = ("9.cls", b"5")
    members += [("9.json", b'{"label": "tree"}'), ("10.jpg", A), ("10.cls", b"boat")]
    listing = sources.find(str(tar(tmp_path / "y.tar", *members)))
    assert [entry.label for entry in listing.entries] == ["tree", "tree", "boat"]
    assert listing.num_refused == 2  # what 5 means is not settled


def test_a_cover_beside_the_class_folders_of_a_tar(tmp_path: Path) -> None:
    members = [(f"data/{name}/{k}.jpg", A) for name in ("tree", "boat") for k in range(2)]
    listing = sources.find(str(tar(tmp_path / "x.tar", ("data/cover.jpg", B), *members)))
    assert {entry.label for entry in listing.entries} == {"tree", "boat"}
    assert [one.id for one in listing.rejected] == ["data/cover.jpg"]
    several = [(f"data/{k}.jpg", B) for k in range(3)]
    with pytest.raises(DataError, match="all pictures are in one folder, data"):
        sources.find(str(tar(tmp_path / "y.tar", *several, *members)))


def test_folders_that_systems_keep_are_no_classes(tmp_path: Path) -> None:
    kept = ("lost+found/1.jpg", "$RECYCLE.BIN/2.jpg", "@eaDir/3.jpg")
    laid(tmp_path, "a/1.jpg", "b/2.jpg", "a/@eaDir/SYNO.jpg", *kept)
    listing = sources.find(str(tmp_path))
    assert {entry.id for entry in listing.entries} == {"a/1.jpg", "b/2.jpg"}


@pytest.mark.parametrize("name", [".x.tar", ".x.parquet"])
def test_hidden_containers_are_watched_too(tmp_path: Path, bucket: str, name: str) -> None:
    if name.endswith("tar"):
        made = tar(tmp_path / name, ("a/1.jpg", A), ("b/2.jpg", B))
    else:
        made = table(tmp_path / name, {"image": [A, B], "label": ["a", "b"]})
    storage.write_bytes(f"{bucket}/{name}", made.read_bytes())
    for source in (str(made), f"{bucket}/{name}"):
        listing = sources.find(source)
        listing.check_unchanged()
        storage.write_bytes(source, made.read_bytes() + bytes(512))
        with pytest.raises(ConflictError, match="has changed since it was listed"):
            listing.check_unchanged()


def test_a_file_called_split_json_is_not_written_over(tmp_path: Path) -> None:
    laid(tmp_path / "s", *(f"{name}/{k}.jpg" for name in "ab" for k in range(4)))
    data, dest = str(tmp_path / "d"), tmp_path / "parts"
    packing.build(str(tmp_path / "s"), data)
    split = splits.assign(inspection.inspect([data]), [], shares={"val": 0.25})
    for content in ('{"mine": 1}', "no JSON"):
        laid(dest, "split.json", content=content.encode())
        with pytest.raises(DataError, match=r"split.json: is not of a split"):
            splits.write(data, str(dest), split, Packing(), overwrite=True)
        assert (dest / "split.json").read_text() == content


@contextmanager
def unlistable(folder: Path) -> Iterator[None]:
    """A folder whose files may be read by their names, for whoever is not its owner."""
    folder.chmod(0o311)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_folder_that_may_be_entered_and_not_listed() -> None:
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    try:
        laid(place, "in/1.jpg", "in/2.jpg", "in/closed/3.jpg")
        (place / "l.csv").write_text("path,label\nin/1.jpg,a\nin/2.jpg,b\nin/none.jpg,a\n")
        with unlistable(place / "in"):
            listing = sources.find(str(place / "l.csv"))
            assert [entry.label for entry in listing.entries] == ["a", "b"]
            with pytest.raises(StorageError, match=r"in: access denied"):
                sources.find(str(place))
        (place / "n.csv").write_text("path,label\nin/closed/3.jpg,a\n")
        (place / "in/closed").chmod(0o000)
        with unlistable(place / "in"), pytest.raises(StorageError, match="access denied"):
            sources.find(str(place / "n.csv"))
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", place], check=True)
        shutil.rmtree(place)


def test_photographs_are_no_place_to_pack_into(tmp_path: Path) -> None:
    """As when SOURCE and DEST are the wrong way round, and what that would lead to later."""
    photos = laid(tmp_path / "photos", "a/1.jpg", "b/2.jpg")
    packing.build(str(photos), str(tmp_path / "d"))
    laid(tmp_path / "e", "preview.png", "docs/fig.png", ".git/a.png", "README.md")
    packing.build(str(photos), str(tmp_path / "e"))
    with pytest.raises(DataError, match=r"holds pictures, such as a/1\.jpg; are SOURCE and DEST"):
        packing.build(str(tmp_path / "d"), str(photos))
    assert not (photos / "MANIFEST.json").exists()
    (tmp_path / "f.csv").write_text("path,label")
    with pytest.raises(DataError, match=r"f.csv: is a file; DEST is a folder"):
        packing.build(str(photos), str(tmp_path / "f.csv"))
    for name in ("MANIFEST.json", *(path.name for path in (tmp_path / "d").glob("*.parquet"))):
        (photos / name).write_bytes((tmp_path / "d" / name).read_bytes())
    with pytest.raises(DataError, match="holds a data set, and folders of pictures such as a"):
        sources.find(str(photos))
    assert len(sources.find(str(photos), kind="parquet").entries) == 2


def test_folders_of_data_sets_are_no_classes(tmp_path: Path) -> None:
    photos = laid(tmp_path / "photos", "a/1.jpg", "b/2.jpg")
    for name in ("one", "two"):
        packing.build(str(photos), str(tmp_path / "sets" / name))
    with pytest.raises(DataError, match="its folders are data sets, not classes; give one"):
        sources.find(str(tmp_path / "sets"))


def test_what_a_source_is_not(tmp_path: Path) -> None:
    laid(tmp_path, "photo.jpg", "flat/1.jpg")
    with pytest.raises(DataError, match=r"photo.jpg: is a file, and neither a list"):
        sources.find(str(tmp_path / "photo.jpg"))
    with pytest.raises(DataError, match="if it is one class, give the folder that it is in"):
        sources.find(str(tmp_path / "flat"))
    (tmp_path / "l.csv").write_text("path,label\nflat,a\nflat/1.jpg,b\n")
    listing = sources.find(str(tmp_path / "l.csv"))
    assert [one.reason for one in listing.rejected] == ["is no file"]
    with pytest.raises(DataError, match=r"pictures=.*nofolder: not found"):
        sources.find(str(tmp_path / "l.csv"), pictures=str(tmp_path / "nofolder"))


@pytest.mark.parametrize("what", ["picture", "id", "look"])
def test_a_damaged_shard_is_not_read(tmp_path: Path, what: str) -> None:
    """Not by a reader, nor by what would pack its damage into a whole data set."""
    for k in range(8):
        laid(tmp_path / "s", f"{'ab'[k % 2]}/{k}.jpg", content=encoded(photo(40 + k, 40)))
    data = str(tmp_path / "d")
    (shard,) = packing.build(str(tmp_path / "s"), data).shards
    rows = inspection.inspect([data])
    content = bytearray((tmp_path / "d" / shard.name).read_bytes())
    table = shards.read_shard(data, shard)
    held = {
        "picture": table["image"][3]["bytes"].as_py()[100:200],
        "id": table["id"][3].as_py().encode(),
        "look": rows[3].thumb[100:200],
    }
    content[content.rindex(held[what]) + len(held[what]) // 2] ^= 1
    (tmp_path / "d" / shard.name).write_bytes(content)
    with pytest.raises(DataError, match="is not what the manifest says"):
        shards.read_looks(data, shard) if what == "look" else shards.read_shard(data, shard)
    if what == "look":
        return
    split = splits.assign(rows, [], shares={"val": 0.25})
    with pytest.raises(DataError, match=r"shard-.*(damaged|CRC)"):
        splits.write(data, str(tmp_path / "parts"), split, Packing())


def test_what_is_guessed_of_labels_is_said(tmp_path: Path, capsys: Any) -> None:
    members: list[tuple[str, bytes | str]] = []
    for k in range(3):
        members += [(f"{k}.jpg", A), (f"{k}.cls", b"%d" % k)]
    made = tar(tmp_path / "x.tar", *members)
    labels(made)
    assert "labels are class numbers; taxonomy= would give them names" in capsys.readouterr().err
    classes = taxonomy.load("synthetic12")
    labels(made, classes=classes)
    assert f'by taxonomy "synthetic12": 0 = {classes.ids[0]}, 1 =' in capsys.readouterr().err
    laid(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "l.csv").write_text("path,label,split\n1.jpg,a,train\n2.jpg,b,val\n")
    labels(tmp_path / "l.csv")
    assert 'column "split" is passed over' in capsys.readouterr().err


def test_what_becomes_of_a_build_that_was_cut_off_is_said(tmp_path: Path, capsys: Any) -> None:
    listing, _ = cut_off(tmp_path)
    dest = str(tmp_path / "d")
    packing.pack(listing, dest, LENIENT)
    assert "going on where a build was cut off, 5 pictures done" in capsys.readouterr().err
    shutil.rmtree(dest)
    cut_off(tmp_path)
    packing.pack(listing, dest, Packing(rows_per_shard=2, max_bad_fraction=1))
    assert "a build of something else was cut off there" in capsys.readouterr().err


def test_a_split_keeps_every_picture(tmp_path: Path) -> None:
    """Those too that are larger than data sets are now packed with by default."""
    laid(tmp_path / "s", *(f"{'ab'[k % 2]}/{k}.jpg" for k in range(8)))
    laid(tmp_path / "s", "a/big.png", content=encoded(Image.new("L", (5200, 5000)), "PNG"))
    data, dest = str(tmp_path / "d"), str(tmp_path / "parts")
    packing.build(str(tmp_path / "s"), data, Packing(max_pixels=10**8))
    split = splits.assign(inspection.inspect([data]), [], shares={"val": 0.25})
    written = splits.write(data, dest, split, Packing())
    assert sum(manifest.num_rows for manifest in written.values()) == 9
    assert not any(manifest.rejected for manifest in written.values())


def test_text_beside_containers_is_no_class_folder(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    table(tmp_path / "s/x.parquet", {"image": [A, B], "label": ["a", "b"]})
    laid(tmp_path / "s", "docs/notes.txt")
    assert len(sources.find(str(tmp_path / "s")).entries) == 2
    laid(tmp_path / "c", "tree/1.jpg", "boat/2.jpg")
    packing.build(str(tmp_path / "c"), str(tmp_path / "c2"))
    (tmp_path / "c2").rename(tmp_path / "c/aa_shards")
    laid(tmp_path / "c", "cobra/_building/plan")
    assert {entry.label for entry in sources.find(str(tmp_path / "c")).entries} == {"tree", "boat"}


def test_what_is_behind_a_progressive_picture_does_not_count() -> None:
    from raypose.data import images

    content = encoded(photo(64, 64), progressive=True)
    assert images.decode(content + bytes(17 << 20), max_pixels=10**6).shape == (64, 64, 3)


def test_how_deep_folders_may_lie_does_not_hang_on_the_interpreter(bottomless: Path) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # as some libraries do
    try:
        with pytest.raises(DataError, match="lie too deep, over 500 in each other"):
            sources.find(str(bottomless))
    finally:
        sys.setrecursionlimit(before)
