"""What can be proved of a grammar on class cards before anything is trained by it.

Every class has captions, none is cut off, no two classes share one, no branch says nothing or what
its neighbour says; and the controls that whatever a grammar gains has to be held against.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from raypose.captions.grammar import format_grammar, from_templates, grammar_hash, parse, to_json
from raypose.captions.nodes import Choice, Lit, Node, children, rebuilt
from raypose.captions.rendering import (
    count,
    enumerate_captions,
    evaluation_captions,
    leaves,
    longest,
)
from raypose.captions.taxonomy import Card, Taxonomy
from raypose.config import document_hash
from raypose.errors import CaptionError

__all__ = ["check", "controls", "coverage", "identity", "prune", "sides"]

MAX_PROVED = 128
"""Ways through a grammar for a class that are all looked at."""


MAX_COMPARED = 256
"""Captions of a branch that are compared with its neighbours' by `prune`."""


CONTROL_WORDS = (
    "amber", "basket", "canyon", "drizzle", "ember", "fable", "granite", "harbour", "island",
    "jigsaw", "kettle", "lantern", "marble", "nectar", "orchard", "pebble", "quartz", "ribbon",
    "saddle", "timber", "umbrella", "velvet", "walnut", "yonder",
)  # fmt: skip
"""Words that say nothing of a posture, for the control with random words."""


_SIDES = re.compile(r"\b(left|right)\b(?! angle)", re.IGNORECASE)


def check(
    node: Node,
    taxonomy: Taxonomy,
    *,
    tokenize: Callable[[list[str]], Sequence[Sequence[int]]] | None = None,
    context_length: int | None = None,
) -> None:
    """Prove that every class has captions, and that no two classes share one.

    Args:
        node: the grammar.
        taxonomy: the classes.
        tokenize: captions → token ids without padding; where given, captions are told apart by
            tokens, and none may be longer than `context_length`: neither those at evaluation nor
            those that training may draw. These are all looked at where a class has 128 ways or
            less, and else the one of the longest branches.
        context_length: tokens that the text tower takes, its two marks included.

    Raises:
        CaptionError: naming the class and the caption at fault.
    """
    for branch, number in coverage(node, taxonomy):
        if number == 0:
            raise CaptionError(
                f'captions: branch "{branch}" says nothing of any class in "{taxonomy.name}": '
                "their cards lack its fields; take it out"
            )
    owner: dict[Any, Card] = {}
    for card in taxonomy.cards:
        captions = evaluation_captions(node, card)
        keys: Sequence[Any] = captions if tokenize is None else list(map(tuple, tokenize(captions)))
        for caption, key in zip(captions, keys, strict=True):
            if owner.setdefault(key, card) is not card:
                raise CaptionError(
                    f'captions: "{caption}" stands for "{owner[key].id}" and for "{card.id}"'
                )
    if tokenize is not None and context_length is not None:
        _check_lengths(node, taxonomy, tokenize, context_length)


def _check_lengths(
    node: Node,
    taxonomy: Taxonomy,
    tokenize: Callable[[list[str]], Sequence[Sequence[int]]],
    context_length: int,
) -> None:
    """Refuse captions that would be cut: what is left of them may be the same for all classes."""
    known: dict[str, int] = {}

    def size(text: str) -> int:
        if text not in known:
            known[text] = len(tokenize([text])[0])
        return known[text]

    spoken: dict[str, None] = {}
    for card in taxonomy.cards:
        few = count(node, card) <= MAX_PROVED
        spoken |= dict.fromkeys(
            enumerate_captions(node, card)
            if few
            else [longest(node, card, size), *evaluation_captions(node, card)]
        )
    texts = list(spoken)
    for text, row in zip(texts, tokenize(texts), strict=True):
        if len(row) > context_length:
            raise CaptionError(
                f'captions: "{text}" has {len(row)} tokens where the text tower takes '
                f"{context_length}; shorten the grammar"
            )


def coverage(node: Node, taxonomy: Taxonomy) -> Iterator[tuple[str, int]]:
    """Yield each branch of each choice, as text, with the number of classes that it speaks of."""
    if isinstance(node, Choice):
        for item in node.items:
            yield format_grammar(item), sum(count(item, card) > 0 for card in taxonomy.cards)
    for child in children(node):
        yield from coverage(child, taxonomy)


def sides(node: Node, taxonomy: Taxonomy) -> bool:
    """Return whether a caption or a class tells left from right: pictures must not be mirrored."""
    labels = (text for card in taxonomy.cards for text in (card.id.replace("_", " "), *card.names))
    return any(map(_SIDES.search, [*_literals(node), *labels]))


def prune(
    node: Node,
    taxonomy: Taxonomy,
    *,
    tokenize: Callable[[list[str]], Sequence[Sequence[int]]] | None = None,
) -> Node:
    """Take out branches that say, of every class, just what an earlier one beside them says.

    Args:
        node: the grammar.
        taxonomy: the classes.
        tokenize: captions → token ids; where given, captions are told apart by tokens, otherwise
            by their letters without case. The first 256 captions of a branch are compared.
    """

    def said(item: Node) -> tuple[frozenset[Any], ...]:
        everything = []
        for card in taxonomy.cards:
            texts = list(islice(enumerate_captions(item, card), MAX_COMPARED))
            keys = map(tuple, tokenize(texts)) if tokenize else map(str.casefold, texts)
            everything.append(frozenset(keys))
        return tuple(everything)

    node = rebuilt(node, [prune(item, taxonomy, tokenize=tokenize) for item in children(node)])
    if not isinstance(node, Choice):
        return node
    kept: dict[Any, Node] = {}
    for item in node.items:
        kept.setdefault(said(item), item)
    branches = tuple(kept.values())
    return branches[0] if len(branches) == 1 else rebuilt(node, branches)


def controls(node: Node, taxonomy: Taxonomy) -> dict[str, Node]:
    """Return the grammars to hold a grammar against: whatever it gains, they must not.

    They are the bare name, a plain photo, one phrase of the domain, and as many captions as the
    grammar has at evaluation, made of random words.
    """
    size = max(len(evaluation_captions(node, card)) for card in taxonomy.cards)
    rng = random.Random(grammar_hash(node))
    phrases: dict[str, None] = {}
    while len(phrases) < size:  # one that is drawn again would be one caption less
        phrases[" ".join(rng.sample(CONTROL_WORDS, 3))] = None
    return {
        "name": parse("<name>"),
        "photo": parse("a photo of a <name>."),
        "domain": parse("a person holding the posture <name>"),
        "random words": from_templates([f"{phrase} {{}}" for phrase in phrases]),
    }


def identity(
    node: Node, taxonomy: Taxonomy, *, tokenize: Callable[[list[str]], Sequence[Sequence[int]]]
) -> str:
    """Return a SHA-256 of what the text tower is told of the classes, and could be told.

    It covers the grammar, the class cards, and the tokens of the captions at evaluation: two runs
    with one identity differ in nothing that comes from captions.
    """
    spoken = [caption for card in taxonomy.cards for caption in evaluation_captions(node, card)]
    document = {
        "grammar": to_json(node),
        "classes": taxonomy.to_dict(),
        "tokens": [list(row) for row in tokenize(spoken)],
    }
    return document_hash(document)


def _literals(node: Node) -> list[str]:
    return [leaf.text for leaf in leaves(node) if isinstance(leaf, Lit)]
