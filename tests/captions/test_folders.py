from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose import storage
from raypose.captions import folders, taxonomy
from raypose.config import NAME_PATTERN
from raypose.errors import TaxonomyError


def lay(base: Path, *names: str) -> str:
    for name in names:
        (base / name).mkdir(parents=True)
    return str(base)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (
            ["Boat_Pose_or_Paripurna_Navasana_", "x"],
            [("boat pose", "paripurna navasana"), ("x",)],
        ),
        (["TreePose", "TPose", "WarriorIII"], [("tree pose",), ("t pose",), ("warrior iii",)]),
        (["warrior1", "Warrior2"], [("warrior 1",), ("warrior 2",)]),
        (["class_1", "class_2"], [("class 1",), ("class 2",)]),
        (["v1", "v2", "3D_pose"], [("v1",), ("v2",), ("3d pose",)]),
        (["warrior-2", "Down-Facing--Dog."], [("warrior 2",), ("down facing dog",)]),
        (["Crane_(Crow)_Pose", "Dog's pose!"], [("crane (crow) pose",), ("dog's pose",)]),
        (["lunge_(left_or_right)", "or_else"], [("lunge (left or right)",), ("or else",)]),
        (["ポーズ_上", "\u00c9tirement_côté"], [("ポーズ 上",), ("étirement côté",)]),
        (["!!!", "-"], [("!!!",), ("-",)]),
    ],
)
def test_names_are_read_out_of_folder_names(ids: list[str], expected: list[tuple[str]]) -> None:
    assert folders.names(ids) == dict(zip(ids, expected, strict=True))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["01_tree", "02_downward_dog"], ["tree", "downward dog"]),
        (["001.Black_footed", "200.Tern"], ["black footed", "tern"]),
        (["1) tree", "2. dog"], ["tree", "dog"]),
        (["1_tree", "2_dog", "3_boat"], ["tree", "dog", "boat"]),
        (["1_hand_up", "2_hands_up"], ["1 hand up", "2 hands up"]),  # two: they may be said of it
        (["45_left", "90_right", "135_up"], ["45 left", "90 right", "135 up"]),
        (["01_tree", "dog"], ["01 tree", "dog"]),
        (["01_tree", "01_dog"], ["01 tree", "01 dog"]),
        (["01_warrior", "02_warrior", "03_dog"], ["01 warrior", "02 warrior", "dog"]),
        (["1.5m", "2.0m"], ["1.5m", "2.0m"]),
        (["1", "2", "3"], ["1", "2", "3"]),
    ],
)
def test_only_numbers_that_count_folders_are_dropped(ids: list[str], expected: list[str]) -> None:
    assert [names[0] for names in folders.names(ids).values()] == expected


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["sitting_or_lying", "sitting"], ["sitting or lying", "sitting"]),
        (["TreePose", "Tree_Pose"], ["treepose", "tree pose"]),
        (["warrior2", "warrior_2"], ["warrior2", "warrior 2"]),
    ],
)
def test_classes_that_would_share_a_name_keep_all_of_theirs(
    ids: list[str], expected: list[str]
) -> None:
    assert folders.names(ids) == {name: (words,) for name, words in zip(ids, expected, strict=True)}


def test_better_names_give_way_too() -> None:
    known = {"a": ("boat", "ship")}
    assert folders.names(["a", "b"], known) == {"a": ("boat", "ship"), "b": ("b",)}
    assert folders.names(["a", "Ship"], known) == {"a": ("a",), "Ship": ("ship",)}


WORDS = st.text(st.sampled_from("aBé1 2_-.(or"), min_size=1, max_size=8)


@given(st.lists(WORDS, min_size=1, max_size=5, unique=True))
def test_names_are_never_empty_and_shared_only_where_nothing_parts_them(ids: list[str]) -> None:
    owner: dict[str, str] = {}
    for name, words in folders.names(ids).items():
        assert words
        assert all(words)
        for word in {word.casefold() for word in words}:
            other = owner.setdefault(word, name)
            alike = {re.sub(r"[\s_.-]+", " ", one).strip().casefold() for one in (name, other)}
            assert len(alike) == 1, (name, other, word)


def test_names_do_not_depend_on_how_accents_are_stored() -> None:
    composed = "Étirement"
    apart = unicodedata.normalize("NFD", composed)
    assert folders.names([apart]) == {apart: ("étirement",)}


def test_what_tools_leave_is_no_class(tmp_path: Path) -> None:
    place = lay(tmp_path, "b", "a", ".ipynb_checkpoints", "__MACOSX", "_unknown", "train")
    assert folders.is_foreign(".ipynb_checkpoints")
    assert folders.class_folders(place) == ["_unknown", "a", "b", "train"]


def test_sets_are_read_as_one(tmp_path: Path) -> None:
    place = lay(tmp_path / "both", "Train/b", "Train/a", "val/c", "val/a", "val/__MACOSX", "notes")
    assert folders.class_folders(place) == ["a", "b", "c"]
    assert folders.class_folders(lay(tmp_path / "one", "train/b", "train/a")) == ["a", "b"]
    assert folders.class_folders(lay(tmp_path / "flat", "train/b", "test")) == ["b"]
    classes = lay(tmp_path / "vehicles", "train/steam", "car")
    assert folders.class_folders(classes) == ["car", "train"]
    assert folders.class_folders(lay(tmp_path / "empty", "train", "test")) == ["test", "train"]


def test_sets_are_read_on_s3_too(bucket: str) -> None:
    for name in ("train/Boat_Pose/1.jpg", "val/TreePose/1.jpg"):
        storage.write_bytes(f"{bucket}/data/{name}", b"")
    made = taxonomy.from_folders(f"{bucket}/data")
    assert made.ids == ("Boat_Pose", "TreePose")
    assert made.name == bucket.removeprefix("s3://")
    with pytest.raises(TaxonomyError, match="/none: holds no folders; expected one for each"):
        taxonomy.from_folders(f"{bucket}/none")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/home/poses", "poses"),
        ("/home/poses/Train/", "poses"),
        ("/home/poses/images/val", "poses"),
        ("/home/My photos #2/data", "My-photos-2"),
        ("/home/_Übungen_/test", "Ubungen"),
        ("/home/ヨガ/train", "classes"),
        ("/train", "train"),
        ("/", "classes"),
        ("s3://poses/a/testing", "a"),
        ("s3://poses/train", "poses"),
        (f"/home/{'x' * 200}", "x" * 128),
    ],
)
def test_a_folder_gives_a_name(place: str, expected: str) -> None:
    assert folders.title(place) == expected
    assert re.fullmatch(NAME_PATTERN, expected)
