"""No caption that training may draw is cut: what is left may be the same for all classes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raypose import captions
from raypose.captions import grammar, taxonomy
from raypose.captions.rendering import count, longest
from raypose.errors import CaptionError

WORK = taxonomy.load("work")
KNOWN: dict[str, int] = {}
LONG = "on a very " + "very " * 60 + "quiet day"


def words(texts: Sequence[str]) -> list[list[int]]:
    """A token for each word, and two marks."""
    known = KNOWN
    return [[0, *(known.setdefault(w, len(known) + 2) for w in text.split()), 1] for text in texts]


def check(text: str) -> None:
    captions.check(grammar.parse(text), WORK, tokenize=words, context_length=32)


@pytest.mark.parametrize("binding", ["", "sample:"])
def test_branches_that_are_drawn_are_looked_at(binding: str) -> None:
    form = f"{{{binding}a photo of a <name>|{LONG}, a photo of a <name>}}"
    node = grammar.parse(form)
    assert all("very" not in text for text in captions.evaluation_captions(node, WORK.cards[0]))
    with pytest.raises(CaptionError, match=r"tokens where the text tower takes 32"):
        check(form)
    check("{a photo of a <name>|a picture of a <name>}")


def test_grammars_of_many_ways_are_held_to_their_longest() -> None:
    ways = " ".join(f"{{a{k}|b{k} c{k}}}" for k in range(10))
    node = grammar.parse(f"{ways} <name>")
    card = WORK.cards[0]
    assert count(node, card) == 1024
    told = longest(node, card, lambda text: len(text.split()))
    assert told.startswith("b0 c0 b1 c1")
    check(f"{ways} <name>")
    more = " ".join(f"{{a{k}|b{k} c{k} d{k}}}" for k in range(10))
    with pytest.raises(CaptionError, match="b0 c0 d0 b1"):
        check(f"{more} <name>")
