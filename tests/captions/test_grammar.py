from __future__ import annotations

import pytest
from hypothesis import given
from support.grammars import grammars

from raypose import captions
from raypose.captions import taxonomy
from raypose.captions.grammar import (
    format_grammar,
    from_json,
    from_templates,
    grammar_hash,
    parse,
    to_json,
)
from raypose.captions.nodes import Node, bind, searched
from raypose.errors import CaptionError

TREE = taxonomy.load("yoga82").cards[68]


@given(grammars)
def test_text_form_reads_back_to_the_same_captions(node: Node) -> None:
    again = parse(format_grammar(node))
    assert list(captions.enumerate_captions(again, TREE)) == list(
        captions.enumerate_captions(node, TREE)
    )
    assert parse(format_grammar(again)) == again


@given(grammars)
def test_json_form_reads_back(node: Node) -> None:
    assert from_json(to_json(node)) == node


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <nam>", 'column 3: no field <nam>; did you mean "name"?'),
        ("a <name", "column 3: <field> is never closed"),
        ("{a|b", "column 5: '}' is missing"),
        ("(a;b", "')' is missing"),
        ("a ] b", "column 3: unexpected ']'"),
        ("[a", "']' is missing"),
        ("[" * 2000 + "<name>" + "]" * 2000, "nested too deep"),
        ("{a|" * 101 + "b" + "}" * 101, "nested too deep"),
    ],
)
def test_faults_point_at_their_place(text: str, message: str) -> None:
    with pytest.raises(CaptionError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_brackets_that_are_text_are_not_deep() -> None:
    assert format_grammar(parse("\\[" * 2000)) == "\\[" * 2000
    assert from_json(to_json(parse("[" * 100 + "<name>" + "]" * 100)))


def test_hash_tells_grammars_apart() -> None:
    one, other = parse("a <name>"), parse("b <name>")
    assert grammar_hash(one) == grammar_hash(parse("a <name>"))
    assert grammar_hash(one) != grammar_hash(other)


def settle(text: str, *numbers: int) -> tuple[str, list[str]]:
    """Bind a grammar by giving the numbers in turn; return it and the places asked for."""
    asked: list[str] = []
    given = iter(numbers)

    def choose(place: str, ways: int) -> int:
        asked.append(f"{place}/{ways}")
        return next(given)

    return format_grammar(bind(parse(text), choose)), asked


def test_a_study_settles_what_it_searches_and_nothing_else() -> None:
    text = "{search:a|b|c} <name>{sample:x|y}[search: z]"
    assert settle(text, 2, 1) == ("c <name>{sample:x|y}", ["captions.0/3", "captions.4/2"])
    assert settle(text, 0, 0)[0] == "a <name>{sample:x|y} z"


def test_branches_not_taken_are_not_asked_for() -> None:
    text = "<name>[search: {search:one|two[search: more]}]"
    assert settle(text, 1) == ("<name>", ["captions.1/2"])
    assert settle(text, 0, 0)[1] == ["captions.1/2", "captions.1.0.1/2"]
    assert settle(text, 0, 1, 0) == (
        "<name> two more",
        ["captions.1/2", "captions.1.0.1/2", "captions.1.0.1.1.1/2"],
    )


@given(grammars)
def test_a_settled_grammar_has_nothing_left_to_search(node: Node) -> None:
    settled = bind(node, lambda place, ways: ways - 1)
    assert not searched(settled)
    if not searched(node):
        assert settled == node


def test_templates_are_read_as_an_ensemble() -> None:
    node = from_templates(["a photo of {}.\n", "{}, seen from {}'s side"])
    assert captions.evaluation_captions(node, TREE) == [
        "a photo of tree pose.",
        "tree pose, seen from tree pose's side",
    ]
    assert captions.templates(node) == ["a photo of {}.", "{}, seen from {}'s side"]
    with pytest.raises(CaptionError, match=r"template 2: no \{\} in 'a photo'"):
        from_templates(["{}", "a photo"])
    with pytest.raises(CaptionError, match="no template"):
        from_templates([])
    with pytest.raises(CaptionError, match="<sanskrit> has no place in a plain template"):
        captions.templates(parse("<name> <sanskrit>"))


@pytest.mark.parametrize("document", [{"lit": 3}, {"field": "nam"}, {"choice": [], "binding": "x"}])
def test_what_is_no_stored_grammar_is_refused(document: object) -> None:
    with pytest.raises(CaptionError, match="not a grammar node"):
        from_json(document)
