from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.grammars import grammars

from raypose import captions
from raypose.captions import taxonomy
from raypose.captions.grammar import format_grammar, parse, to_json
from raypose.captions.nodes import Choice, Join, Lit, Node, Opt, Seq
from raypose.config import CaptionConfig
from raypose.errors import CaptionError

YOGA = taxonomy.load("yoga82")
BARE = taxonomy.Card("x", ("x pose",))
TREE = YOGA.cards[68]


def everything(node: Node, card: taxonomy.Card) -> list[str]:
    return list(captions.enumerate_captions(node, card))


@given(grammars)
def test_enumerate_has_no_repeats_and_count_bounds_it(node: Node) -> None:
    for card in (TREE, BARE):
        found = everything(node, card)
        assert len(found) == len(set(found)) <= captions.count(node, card)
        assert bool(found) == (captions.count(node, card) > 0)


@given(grammars, st.integers(0, 100), st.integers(0, 100))
def test_a_draw_is_one_of_all_and_repeats(node: Node, seed: int, step: int) -> None:
    if not captions.count(node, TREE):
        return
    drawn = captions.sample(node, TREE, seed=seed, step=step)
    assert drawn in everything(node, TREE)
    assert drawn == captions.sample(node, TREE, seed=seed, step=step)


def test_count_is_exact_where_captions_differ() -> None:
    node = parse("{a|b|c} <name>[ now][ here] (x;{y|z})")
    assert captions.count(node, TREE) == 3 * 2 * 2 * 2 == len(everything(node, TREE))


def test_bindings_choose() -> None:
    node = parse("{fixed:a|b} {sample:c|d} {ensemble:e|f}[fixed: g]")
    assert captions.evaluation_captions(node, TREE) == ["a c e g", "a c f g"]
    drawn = {captions.sample(node, TREE, seed=0, step=step) for step in range(64)}
    assert drawn == {"a c e g", "a c f g", "a d e g", "a d f g"}


def test_missing_fields() -> None:
    optional = parse("<name>[fixed:, <sanskrit>]")
    assert captions.evaluation_captions(optional, TREE) == ["tree pose, Vrksasana"]
    assert captions.evaluation_captions(optional, BARE) == ["x pose"]
    with pytest.raises(CaptionError, match='none for "x": its card lacks <sanskrit>'):
        captions.evaluation_captions(parse("<sanskrit>"), BARE)
    with pytest.raises(CaptionError, match="its card lacks <top>"):
        captions.sample(parse("<name> <top>"), BARE, seed=0, step=0)


@pytest.mark.parametrize("preset", captions.PRESETS)
@pytest.mark.parametrize("name", taxonomy.shipped())
def test_presets_hold_for_every_shipped_class(preset: str, name: str) -> None:
    node = captions.load(CaptionConfig(preset=preset))
    captions.check(node, taxonomy.load(name))


def test_check_finds_classes_that_share_a_caption() -> None:
    with pytest.raises(CaptionError, match=r'"Sitting" stands for ".*" and for ".*"'):
        captions.check(parse("<top>"), YOGA)


def test_unknown_preset_suggests() -> None:
    with pytest.raises(CaptionError, match='did you mean "photo"'):
        captions.load(CaptionConfig(preset="foto"))


def test_own_grammar_takes_the_place_of_the_preset() -> None:
    node = captions.load(CaptionConfig(preset="photo", grammar="just <name>"))
    assert captions.evaluation_captions(node, TREE) == ["just tree pose"]


def test_a_vast_grammar_is_never_enumerated_by_accident() -> None:
    vast = parse("".join("{a|b|c|d|e|f|g|h|i|j}" for _ in range(12)) + "<name>")
    assert captions.count(vast, TREE) == 10**12
    captions.sample(vast, TREE, seed=1, step=2)
    assert next(iter(captions.enumerate_captions(vast, TREE))) == "aaaaaaaaaaaa" + "tree pose"
    huge = parse("".join("{ensemble:a|b|c|d|e|f|g|h|i|j}" for _ in range(12)) + "<name>")
    with pytest.raises(CaptionError, match="over 64 in the ensemble"):
        captions.evaluation_captions(huge, TREE)


def marked(node: Node, place: str = "t") -> Node:
    """Give each branch and literal a text of its own, so that no two ways read alike."""
    match node:
        case Seq(items):
            return Seq(tuple(marked(item, f"{place}{k}") for k, item in enumerate(items)))
        case Join(items, separator):
            below = tuple(marked(item, f"{place}{k}") for k, item in enumerate(items))
            return Join(below, separator)
        case Choice(items, binding):
            below = (
                Seq((Lit(f"{place}{k};"), marked(item, f"{place}{k}")))
                for k, item in enumerate(items)
            )
            return Choice(tuple(below), binding)
        case Opt(item, binding):
            return Opt(Seq((Lit(f"{place}o;"), marked(item, f"{place}o"))), binding)
        case _:
            return Lit(f"{place};")


@given(grammars)
def test_count_is_the_length_of_enumerate_where_ways_read_differently(node: Node) -> None:
    different = marked(node)
    assert captions.count(different, TREE) == len(everything(different, TREE))


@given(grammars, st.integers(0, 9))
def test_pruning_loses_no_caption(node: Node, seed: int) -> None:
    few = taxonomy.Taxonomy("few", (TREE, BARE))
    pruned = captions.prune(node, few)
    for card in few.cards:
        assert captions.count(pruned, card) <= captions.count(node, card)
        before = {text.casefold() for text in everything(node, card)}
        assert {text.casefold() for text in everything(pruned, card)} == before
    assert captions.prune(pruned, few) == pruned


def test_branches_that_say_the_same_are_pruned() -> None:
    node = parse("a {photo|Photo|{photo|photo}|picture} of <name>")
    assert format_grammar(captions.prune(node, YOGA)) == "a {sample:photo|picture} of <name>"
    by_length = captions.prune(node, YOGA, tokenize=lambda texts: [[len(t)] for t in texts])
    assert format_grammar(by_length) == "a {sample:photo|picture} of <name>"


def test_a_dead_branch_is_named() -> None:
    synthetic = taxonomy.Taxonomy("bare", (BARE, taxonomy.Card("y", ("y pose",))))
    node = parse("{<name>|<name>, legs <legs>}")
    assert list(captions.coverage(node, synthetic)) == [("<name>", 2), ("<name>, legs <legs>", 0)]
    with pytest.raises(CaptionError, match='branch "<name>, legs <legs>" says nothing of any cla'):
        captions.check(node, synthetic)


def test_sides_are_noticed() -> None:
    turned = taxonomy.Taxonomy("t", (BARE, taxonomy.Card("y", ("left side plank",))))
    plain = taxonomy.Taxonomy("t", (BARE, TREE))
    assert captions.sides(parse("<name>"), turned)
    assert captions.sides(parse("<name>, seen from the Right"), plain)
    assert not captions.sides(parse("<name>, at a right angle"), plain)
    assert not captions.sides(parse("<name>, upright"), YOGA)


def test_controls_are_as_many_and_hold() -> None:
    node = captions.load(CaptionConfig(preset="ensemble"))
    controls = captions.controls(node, YOGA)
    assert list(controls) == ["name", "photo", "domain", "random words"]
    for control in controls.values():
        captions.check(control, YOGA)
    random_words = controls["random words"]
    assert len(captions.evaluation_captions(random_words, TREE)) == 3
    assert captions.controls(node, YOGA) == controls


def test_grammars_are_read_from_where_they_lie(tmp_path: Path) -> None:
    assert captions.read("photo") == parse(captions.PRESETS["photo"])
    assert captions.read("a <name>") == parse("a <name>")
    listed = tmp_path / "list.txt"
    listed.write_text("a photo of a {}.\n\na drawing of a {}.\n")
    assert captions.templates(captions.read(str(listed))) == [
        "a photo of a {}.",
        "a drawing of a {}.",
    ]
    stored = tmp_path / "g.json"
    stored.write_text(json.dumps(to_json(parse("a <name>"))))
    assert captions.read(str(stored)) == parse("a <name>")
    stored.write_text("{")
    with pytest.raises(CaptionError, match="not JSON"):
        captions.read(str(stored))
    with pytest.raises(CaptionError, match=r"none\.txt: no such file"):
        captions.read("none.txt")


def test_what_a_study_searches_is_settled_outside_one() -> None:
    node = captions.load(CaptionConfig(preset="searched"))
    (caption,) = captions.evaluation_captions(node, TREE)
    assert caption == "a photo of a person in tree pose, Vrksasana, Standing - Straight"
    assert captions.sample(node, TREE, seed=0, step=9) == caption
    assert captions.count(node, TREE) == 3 * 2 * 4 == len(everything(node, TREE))


def test_as_many_random_words_as_captions_whatever_the_draw() -> None:
    for number in range(40):
        node = parse("{ensemble:" + "|".join(f"{number} {k} <name>" for k in range(64)) + "}")
        words = captions.controls(node, YOGA)["random words"]
        assert len(captions.evaluation_captions(words, TREE)) == 64
