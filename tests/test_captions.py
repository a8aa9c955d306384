from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose import captions, taxonomy
from raypose.captions import Choice, Field, Join, Lit, Node, Opt, Seq
from raypose.config import CaptionConfig
from raypose.errors import CaptionError

YOGA = taxonomy.load("yoga82")
BARE = taxonomy.Card("x", ("x pose",))
TREE = YOGA.cards[68]

bindings = st.sampled_from(["fixed", "sample", "ensemble"])
leaves: st.SearchStrategy[Node] = st.one_of(
    st.builds(Lit, st.text(min_size=1, max_size=6)),
    st.builds(Field, st.sampled_from(sorted(captions.FIELDS))),
)


def branches(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(children, min_size=1, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Seq, some),
        st.builds(Choice, some, bindings),
        st.builds(Opt, children, bindings),
        st.builds(Join, some),
    )


grammars = st.recursive(leaves, branches, max_leaves=8)


def everything(node: Node, card: taxonomy.Card) -> list[str]:
    return list(captions.enumerate_captions(node, card))


@given(grammars)
def test_text_form_reads_back_to_the_same_captions(node: Node) -> None:
    again = captions.parse(captions.format_grammar(node))
    assert everything(again, TREE) == everything(node, TREE)
    assert captions.parse(captions.format_grammar(again)) == again


@given(grammars)
def test_json_form_reads_back(node: Node) -> None:
    assert captions.from_json(captions.to_json(node)) == node


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
    node = captions.parse("{a|b|c} <name>[ now][ here] (x;{y|z})")
    assert captions.count(node, TREE) == 3 * 2 * 2 * 2 == len(everything(node, TREE))


def test_bindings_choose() -> None:
    node = captions.parse("{fixed:a|b} {sample:c|d} {ensemble:e|f}[fixed: g]")
    assert captions.evaluation_captions(node, TREE) == ["a c e g", "a c f g"]
    drawn = {captions.sample(node, TREE, seed=0, step=step) for step in range(64)}
    assert drawn == {"a c e g", "a c f g", "a d e g", "a d f g"}


def test_missing_fields() -> None:
    optional = captions.parse("<name>[fixed:, <sanskrit>]")
    assert captions.evaluation_captions(optional, TREE) == ["tree pose, Vrksasana"]
    assert captions.evaluation_captions(optional, BARE) == ["x pose"]
    with pytest.raises(CaptionError, match='none for "x": its card lacks <sanskrit>'):
        captions.evaluation_captions(captions.parse("<sanskrit>"), BARE)
    with pytest.raises(CaptionError, match="its card lacks <top>"):
        captions.sample(captions.parse("<name> <top>"), BARE, seed=0, step=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <nam>", 'column 3: no field <nam>; did you mean "name"?'),
        ("a <name", "column 3: <field> is never closed"),
        ("{a|b", "column 5: '}' is missing"),
        ("(a;b", "')' is missing"),
        ("a ] b", "column 3: unexpected ']'"),
        ("[a", "']' is missing"),
    ],
)
def test_faults_point_at_their_place(text: str, message: str) -> None:
    with pytest.raises(CaptionError) as caught:
        captions.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("preset", captions.PRESETS)
@pytest.mark.parametrize("name", taxonomy.shipped())
def test_presets_hold_for_every_shipped_class(preset: str, name: str) -> None:
    node = captions.load(CaptionConfig(preset=preset))
    captions.check(node, taxonomy.load(name))


def test_check_finds_classes_that_share_a_caption() -> None:
    with pytest.raises(CaptionError, match=r'"Sitting" stands for ".*" and for ".*"'):
        captions.check(captions.parse("<top>"), YOGA)


def test_unknown_preset_suggests() -> None:
    with pytest.raises(CaptionError, match='did you mean "photo"'):
        captions.load(CaptionConfig(preset="foto"))


def test_own_grammar_takes_the_place_of_the_preset() -> None:
    node = captions.load(CaptionConfig(preset="photo", grammar="just <name>"))
    assert captions.evaluation_captions(node, TREE) == ["just tree pose"]


def test_a_vast_grammar_is_never_enumerated_by_accident() -> None:
    vast = captions.parse("".join("{a|b|c|d|e|f|g|h|i|j}" for _ in range(12)) + "<name>")
    assert captions.count(vast, TREE) == 10**12
    captions.sample(vast, TREE, seed=1, step=2)
    assert next(iter(captions.enumerate_captions(vast, TREE))) == "aaaaaaaaaaaa" + "tree pose"
    huge = captions.parse("".join("{ensemble:a|b|c|d|e|f|g|h|i|j}" for _ in range(12)) + "<name>")
    with pytest.raises(CaptionError, match="over 64 in the ensemble"):
        captions.evaluation_captions(huge, TREE)


def test_hash_tells_grammars_apart() -> None:
    one, other = captions.parse("a <name>"), captions.parse("b <name>")
    assert captions.grammar_hash(one) == captions.grammar_hash(captions.parse("a <name>"))
    assert captions.grammar_hash(one) != captions.grammar_hash(other)
