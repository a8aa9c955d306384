from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypose import config
from raypose.captions import taxonomy
from raypose.config import Config
from raypose.errors import TaxonomyError
from raypose.synthesis.poses import POSES


def card(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "names": ["a"]} | changes


@pytest.mark.parametrize("name", taxonomy.shipped())
def test_shipped_taxonomies_load_and_travel(name: str) -> None:
    loaded = taxonomy.load(name)
    assert taxonomy.parse(loaded.to_dict(), where=name) == loaded
    assert all(level for level in loaded.levels)


def test_yoga82_is_in_official_order() -> None:
    ids = taxonomy.load("yoga82").ids
    assert len(ids) == 82
    assert list(ids) == sorted(ids)
    index = taxonomy.load("yoga82").index()
    assert index["Warrior_III_Pose_or_Virabhadrasana_III_"] == 73
    assert index["Warrior_II_Pose_or_Virabhadrasana_II_"] == 74
    assert index["Warrior_I_Pose_or_Virabhadrasana_I_"] == 75


def test_yoga82_is_complete() -> None:
    yoga = taxonomy.load("yoga82")
    assert [len(level) for level in yoga.levels] == [20, 6]
    descriptions = {card.facets for card in yoga.cards}
    assert len(descriptions) == 82  # no two poses are described alike
    for card in yoga.cards:
        assert all(vars(card.facets).values()), card.id


def test_every_word_of_the_vocabulary_is_used_once_at_least() -> None:
    cards = [card for name in ("yoga66", "yoga82", "work") for card in taxonomy.load(name).cards]
    for facet, words in taxonomy.FACETS.items():
        if facet not in ("base", "support"):  # points of contact are one list for both
            assert set(words) == {getattr(card.facets, facet) for card in cards} - {None}


def test_yoga82_agrees_with_the_class_tree(shared: Path) -> None:
    cards = taxonomy.load("yoga82").cards
    with (shared / "data/yoga82.csv").open() as file:
        for row in csv.DictReader(file):
            found = cards[int(row["class_82_id"])]
            assert found.id == row["class_82_name"]
            assert found.parents == (row["level20_name"], row["level6_name"])


def test_yoga66_covers_the_photographs(shared: Path) -> None:
    folders = sorted(path.name for path in (shared / "data/yoga66/train").iterdir())
    assert sorted(taxonomy.load("yoga66").ids) == folders


def test_every_class_can_be_drawn() -> None:
    assert taxonomy.load("yoga82").ids == tuple(POSES)
    assert set(taxonomy.load("synthetic12").ids) <= set(POSES)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([card()], "has 1 class; at least 2 are needed"),
        ([card(), card()], 'label "a" belongs to "a" and to "a"'),
        ([card(), card(id="b")], 'name "a" belongs to "a" and to "b"'),
        ([card(), card(id="b", names=["A"])], 'name "a" belongs to "a" and to "b"'),
        ([card(), card(id="b", names=["b"], aliases=["a"])], 'label "a" belongs to'),
        ([card(), card(id="b", names=[])], "classes.1: names: list should have at least 1 item"),
        ([card(), {"id": "b", "nmes": ["b"]}], "classes.1: names: field required"),
        ([card(parents=["p"]), card(id="b", names=["b"])], '"b" has 0 parents where others have 1'),
        (
            [card(parents=["p", "q"]), card(id="b", names=["b"], parents=["p", "r"])],
            '"p" of "b" lies under two parents',
        ),
        ([card(facets={"torzo": "straight"}), card()], "facets: no facet 'torzo'; did you mean"),
        (
            [card(facets={"torso": "strait"}), card()],
            "classes.0: facets.torso: 'strait' is not a word for it; did you mean \"straight\"?",
        ),
        (
            [card(facets={"legs": ["bent", "apart"]}), card()],
            "facets.legs: takes one word, found 2",
        ),
        (
            [card(sanskrit=["x"]), card(id="b", names=["b"], sanskrit=["X"])],
            'name "x" belongs to "a" and to "b"',
        ),
        (["Tree_Pos", card()], '"Tree_Pos" is no card of the base'),
        ([card(), card(id="A", names=["b"])], 'label, case aside, "a" belongs to "a" and to "A"'),
        ([card(), card(id=" ", names=["b"])], "classes.1: id: text is wanted, of one line"),
        ([card(), card(id="b", names=["b", ""])], "classes.1: names: text is wanted"),
        ([card(), card(id="b", names=["b"], aliases=["x\0"])], "classes.1: aliases: text is"),
    ],
)
def test_faults_are_named(classes: list[Any], message: str) -> None:
    with pytest.raises(TaxonomyError) as caught:
        taxonomy.parse({"name": "t", "classes": classes}, where="t.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("t.yaml: ")


def test_a_base_that_leads_back_is_named(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(f"name: one\nbase: {other}\nclasses: [a, b]\n")
    other.write_text(f"name: other\nbase: {one}\nclasses: [a, b]\n")
    with pytest.raises(TaxonomyError, match=rf"^{other}: base: {one} is based on this itself"):
        taxonomy.load(str(one))
    one.write_text("name: one\nbase: [1]\nclasses: [a, b]\n")
    with pytest.raises(TaxonomyError, match=rf"^{one}: base: the name or the path"):
        taxonomy.load(str(one))


def test_missing_taxonomy_suggests() -> None:
    with pytest.raises(TaxonomyError, match='yoga83: no such taxonomy; did you mean "yoga82"'):
        taxonomy.load("yoga83")


def test_absent_labels_are_named() -> None:
    with pytest.raises(TaxonomyError) as caught:
        taxonomy.load("synthetic12").require(["Boat_Pose"], where="s3://b/data")
    message = str(caught.value)
    assert message.startswith('s3://b/data: "Boat_Pose" not in taxonomy "synthetic12"')
    assert message.endswith('; did you mean "Boat_Pose_or_Paripurna_Navasana_"?')
    with pytest.raises(TaxonomyError, match='"Boat_Pose", "x", "y" and 1 more not in taxonomy'):
        taxonomy.load("synthetic12").require(["x", "Boat_Pose", "z", "y"], where="s3://b/data")


def test_init_from_folders(tmp_path: Path) -> None:
    for name in ("Side_Plank_(left)", "Dog's pose"):
        (tmp_path / name).mkdir()
    made = taxonomy.from_folders(str(tmp_path))
    assert made.ids == ("Dog's pose", "Side_Plank_(left)")
    assert made.cards[1].name == "side plank (left)"
    path = tmp_path / "mine.yaml"
    path.write_text(taxonomy.format_taxonomy(made))
    assert taxonomy.load(str(path)) == made
    with pytest.raises(TaxonomyError, match="not a folder"):
        taxonomy.from_folders(str(path))


def test_folders_of_a_shipped_taxonomy_make_its_cards(shared: Path) -> None:
    place = shared / "data/yoga66/train"
    made, known = taxonomy.from_folders(str(place)), taxonomy.load("yoga66")
    assert made.name == "yoga66"
    assert sorted(made.cards, key=lambda card: card.id) == sorted(
        known.cards, key=lambda card: card.id
    )


def test_folders_named_otherwise_take_cards_by_name(tmp_path: Path) -> None:
    for name in ("Boat_Pose", "Vrksasana", "plank-pose"):
        (tmp_path / name).mkdir()
    made = {card.id: card for card in taxonomy.from_folders(str(tmp_path)).cards}
    yoga = {card.name: card for card in taxonomy.load("yoga82").cards}
    for name, folder in (("boat pose", "Boat_Pose"), ("tree pose", "Vrksasana"),
                         ("plank pose", "plank-pose")):  # fmt: skip
        assert made[folder] == dataclasses.replace(yoga[name], id=folder)
    (tmp_path / "Juggling_or_Catching").mkdir()
    made = {card.id: card for card in taxonomy.from_folders(str(tmp_path)).cards}
    assert made["Juggling_or_Catching"].names == ("juggling", "catching")
    assert made["Boat_Pose"].facets == yoga["boat pose"].facets
    assert {card.parents for card in made.values()} == {()}


def test_two_folders_never_take_one_card(tmp_path: Path) -> None:
    for name in ("bending", "stooping", "sitting"):  # the first two are one class of work
        (tmp_path / name).mkdir()
    made = {card.id: card for card in taxonomy.from_folders(str(tmp_path)).cards}
    assert made["sitting"].names == ("sitting", "sitting on a chair")
    assert (made["bending"].names, made["stooping"].names) == (("bending",), ("stooping",))
    assert made["stooping"].facets == taxonomy.Facets() != made["bending"].facets


def test_two_spellings_of_one_class_are_refused(tmp_path: Path) -> None:
    for name in ("tree pose", "Tree_Pose"):
        (tmp_path / name).mkdir()
    with pytest.raises(TaxonomyError, match='name "tree pose" belongs to "Tree_Pose" and to "tree'):
        taxonomy.from_folders(str(tmp_path))


@pytest.mark.parametrize("name", taxonomy.shipped())
def test_the_smallest_that_knows_all_matches_first(name: str) -> None:
    loaded = taxonomy.load(name)
    assert taxonomy.matching(loaded.ids)[0] == (name, len(loaded))


def test_matching_counts_labels_not_names() -> None:
    some = ["Boat_Pose_or_Paripurna_Navasana_", "Tree_Pose_or_Vrksasana_", "boat pose", "juggling"]
    assert taxonomy.matching(some) == [("synthetic12", 2), ("yoga66", 2), ("yoga82", 2)]
    assert taxonomy.matching(["stooping", "crouching"]) == [("work", 2)]  # aliases
    assert taxonomy.matching(["juggling"]) == []
    yoga = taxonomy.load("yoga82").ids
    assert taxonomy.matching([*yoga, "juggling"])[0] == ("yoga82", 82)


def test_a_pool_of_sets_is_one_taxonomy(pictures: Path) -> None:
    made = taxonomy.from_folders(str(pictures))
    assert made.ids == tuple(sorted(taxonomy.load("synthetic12").ids))
    assert made.name == taxonomy.from_folders(str(pictures / "val")).name == pictures.name


def test_a_file_travels_inside_the_document(tmp_path: Path) -> None:
    text = "name: mine\nclasses:\n- {id: 2024, names: [tree]}\n- {id: b, names: [boat]}\n"
    places = [tmp_path / name for name in ("one.yaml", "other.yaml")]
    for place in places:
        place.write_text(text)
    one, other = (
        taxonomy.embedded(config.override(Config(), {"data.taxonomy": str(place)}))
        for place in places
    )
    assert one.run_id == other.run_id  # what it holds counts, not where it lay
    for place in places:
        place.unlink()
    sent = config.parse_config(config.dump(one))
    assert taxonomy.load(sent.data.taxonomy).ids == ("2024", "b")
    written = yaml.safe_dump(config.sparse(one))
    (tmp_path / "winner.yaml").write_text(written)
    again = config.load(str(tmp_path / "winner.yaml"))
    assert taxonomy.load(again.data.taxonomy) == taxonomy.load(one.data.taxonomy)
    assert again.run_id == one.run_id
    places[0].write_text(text.replace("tree", "oak"))
    changed = config.override(Config(), {"data.taxonomy": str(places[0])})
    assert taxonomy.embedded(changed).run_id != one.run_id
    assert taxonomy.embedded(Config()) == Config()


def test_pictures_under_an_alias_count_for_the_class() -> None:
    cards = taxonomy.parse(
        {"classes": [{"id": "tree", "names": ["tree"], "aliases": ["arbre"]},
                     {"id": "boat", "names": ["boat"]}]}, where="t",
    )  # fmt: skip
    assert cards.counts({"arbre": 3, "tree": 2}) == {"tree": 5}
    with pytest.raises(TaxonomyError, match="nope"):
        cards.counts({"nope": 1})
