"""What a grammar says of a class: count, enumerate, draw, check; and the grammars that are shipped.

Draws follow from (seed, step, class) alone: alike on every rank. Everything is lazy: a grammar of
any size is counted and drawn from in no time, and never written out by accident.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from raypose.config import CaptionConfig, document_hash
from raypose.errors import CaptionError, did_you_mean
from raypose.grammar import (
    FIELDS,
    Choice,
    Field,
    Join,
    Lit,
    Node,
    Opt,
    Seq,
    children,
    format_grammar,
    from_json,
    from_templates,
    grammar_hash,
    parse,
    rebuilt,
    to_json,
)
from raypose.taxonomy import Card, Taxonomy

__all__ = [
    "PRESETS",
    "check",
    "controls",
    "count",
    "coverage",
    "enumerate_captions",
    "evaluation_captions",
    "identity",
    "load",
    "prune",
    "read",
    "sample",
    "sides",
    "templates",
]

MAX_ENSEMBLE = 64
MAX_COMPARED = 256
"""Captions of a branch that are compared with its neighbours' by `prune`."""

PRESETS = {
    "name": "<name>",
    "photo": "a photo of a person in <name>",
    "words": "a {photo|picture|snapshot} of {a person|someone|somebody} "
    "{in|doing|practising|holding} [the ]<name>",
    "ensemble": "{ensemble: a photo of a person in <name>|a picture of someone doing <name>"
    "|<name>, a body posture}",
    "sanskrit": "a photo of a person in <name>[fixed:, <sanskrit>]",
    "tree": "a photo of a person in (<name>;<parent>)",
    "posture": "a photo of a person in <name>"
    "[fixed:: torso <torso>][fixed:, legs <legs>][fixed:, arms <arms>]",
    "searched": "{search:a photo of a person in |a picture of someone doing |}<name>"
    "[search:, <sanskrit>][search:{search:, <parent>|, <orientation>, weight on <support>"
    "|: torso <torso>, legs <legs>, arms <arms>}]",
}

CONTROL_WORDS = (
    "amber", "basket", "canyon", "drizzle", "ember", "fable", "granite", "harbour", "island",
    "jigsaw", "kettle", "lantern", "marble", "nectar", "orchard", "pebble", "quartz", "ribbon",
    "saddle", "timber", "umbrella", "velvet", "walnut", "yonder",
)  # fmt: skip
"""Words that say nothing of a posture, for the control with random words."""

_SIDES = re.compile(r"\b(left|right)\b(?! angle)", re.IGNORECASE)


Pick = Callable[[Choice | Opt, int], tuple[Sequence[int], bool]]
"""(branch point, number of ways) → (their order, whether one is enough)."""


def load(config: CaptionConfig) -> Node:
    """Return the grammar that a recipe names or spells out."""
    if config.grammar is not None:
        return parse(config.grammar)
    if config.preset not in PRESETS:
        raise CaptionError(
            f"captions.preset: no preset {config.preset!r}{did_you_mean(config.preset, PRESETS)}"
            f"; shipped are {', '.join(PRESETS)}"
        )
    return parse(PRESETS[config.preset])


def read(source: str) -> Node:
    """Return a grammar by preset, by file (.json: stored form; .txt: templates), or by its text."""
    if source in PRESETS:
        return parse(PRESETS[source])
    if not source.endswith((".json", ".txt")):
        return parse(source)
    try:
        text = Path(source).read_text(encoding="utf-8")
        if source.endswith(".json"):
            return from_json(json.loads(text))
        return from_templates(line for line in text.splitlines() if line.strip())
    except OSError as error:
        raise CaptionError(f"{source}: {(error.strerror or 'not readable').lower()}") from None
    except ValueError as error:
        raise CaptionError(f"{source}: not JSON ({error})") from None


def count(node: Node, card: Card) -> int:
    """Return how many ways there are through the grammar for a card, those of a search included.

    Two ways may read alike where branches overlap; `prune` takes out those that always do.
    """
    match node:
        case Lit():
            return 1
        case Field(name):
            return 0 if FIELDS[name](card) is None else 1
        case Seq(items) | Join(items):
            return math.prod(count(item, card) for item in items)
        case Choice(items, binding):
            ways = [count(item, card) for item in items]
            return next((way for way in ways if way), 0) if binding == "fixed" else sum(ways)
        case Opt(item, binding):
            ways_in = count(item, card)
            return max(ways_in, 1) if binding == "fixed" else ways_in + 1


def enumerate_captions(node: Node, card: Card) -> Iterator[str]:
    """Yield each different caption for a card once, lazily, in the order of the branches."""
    seen = set()
    for text in _render(node, card, _pick_all):
        caption = _tidy(text)
        if caption not in seen:
            seen.add(caption)
            yield caption


def evaluation_captions(node: Node, card: Card) -> list[str]:
    """Return the captions that stand for a card at evaluation: K ≥ 1, without repeats.

    Raises:
        CaptionError: where none can be rendered, or they are more than 64.
    """
    captions: dict[str, None] = {}
    for way, text in enumerate(_render(node, card, _pick_evaluation)):
        captions[_tidy(text)] = None
        if len(captions) > MAX_ENSEMBLE or way > MAX_ENSEMBLE**2:
            raise CaptionError(
                f'captions: over {MAX_ENSEMBLE} in the ensemble for "{card.id}"; '
                "bind some choices as sample or fixed"
            )
    if not captions:
        raise CaptionError(f'captions: none for "{card.id}": its card lacks {_lacking(node, card)}')
    return list(captions)


def sample(node: Node, card: Card, *, seed: int, step: int, key: str = "") -> str:
    """Draw a training caption: a function of (seed, step, class, key) and nothing else.

    Args:
        node: the grammar.
        card: the class.
        seed: of the run.
        step: of the run.
        key: the picture's id, where each picture has a caption of its own.
    """
    rng = random.Random(f"{seed}/{step}/{card.id}{f'/{key}' if key else ''}")

    def pick(branch: Choice | Opt, ways: int) -> tuple[Sequence[int], bool]:
        settled = branch.binding in ("fixed", "search")
        first = 0 if settled else rng.randrange(ways)
        return [*range(first, ways), *range(first)], True

    for text in _render(node, card, pick):
        return _tidy(text)
    raise CaptionError(f'captions: none for "{card.id}": its card lacks {_lacking(node, card)}')


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
            tokens, and none may be longer than `context_length`.
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
            if context_length is not None and len(key) > context_length:
                raise CaptionError(
                    f'captions: "{caption}" has {len(key)} tokens where the text tower takes '
                    f"{context_length}; shorten the grammar"
                )
            if owner.setdefault(key, card) is not card:
                raise CaptionError(
                    f'captions: "{caption}" stands for "{owner[key].id}" and for "{card.id}"'
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
    words = (" ".join(rng.sample(CONTROL_WORDS, 3)) for _ in range(size))
    return {
        "name": parse("<name>"),
        "photo": parse("a photo of a <name>."),
        "domain": parse("a person holding the posture <name>"),
        "random words": from_templates([f"{phrase} {{}}" for phrase in words]),
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


def templates(node: Node) -> list[str]:
    """Return what a grammar says at evaluation as plain templates with ``{}`` for the name.

    Raises:
        CaptionError: where it speaks of more than the name.
    """
    others = {leaf.name for leaf in _leaves(node) if isinstance(leaf, Field)} - {"name"}
    if others:
        raise CaptionError(f"captions: <{min(others)}> has no place in a plain template")
    return evaluation_captions(node, Card(id="", names=("{}",)))


def _leaves(node: Node) -> Iterator[Node]:
    below = children(node)
    if not below:
        yield node
    for child in below:
        yield from _leaves(child)


def _literals(node: Node) -> list[str]:
    return [leaf.text for leaf in _leaves(node) if isinstance(leaf, Lit)]


def _render(node: Node, card: Card, pick: Pick) -> Iterator[str]:
    """Yield texts in the order of `pick`; a branch whose fields are missing yields none."""
    match node:
        case Lit(text):
            yield text
        case Field(name):
            value = FIELDS[name](card)
            if value is not None:
                yield value
        case Seq(items):
            for parts in _product(items, card, pick):
                yield "".join(parts)
        case Join(items, separator):
            for parts in _product(items, card, pick):
                yield separator.join(part for part in parts if part)
        case Choice(items):
            yield from _branches(node, [_render(item, card, pick) for item in items], pick)
        case Opt(item):
            yield from _branches(node, [_render(item, card, pick), iter([""])], pick)


def _branches(node: Choice | Opt, branches: list[Iterator[str]], pick: Pick) -> Iterator[str]:
    """Yield the texts of the branches picked, or of the first of them that renders."""
    order, single = pick(node, len(branches))
    for number in order:
        first = next(branches[number], None)
        if first is None:
            continue
        yield first
        yield from branches[number]
        if single:
            return


def _product(items: Sequence[Node], card: Card, pick: Pick) -> Iterator[list[str]]:
    if not items:
        yield []
        return
    for head in _render(items[0], card, pick):
        for rest in _product(items[1:], card, pick):
            yield [head, *rest]


def _pick_all(branch: Choice | Opt, ways: int) -> tuple[Sequence[int], bool]:
    return range(ways), branch.binding == "fixed"


def _pick_evaluation(branch: Choice | Opt, ways: int) -> tuple[Sequence[int], bool]:
    return range(ways), branch.binding != "ensemble"


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _lacking(node: Node, card: Card) -> str:
    match node:
        case Field(name):
            return "" if FIELDS[name](card) else f"<{name}>"
        case Seq(items) | Join(items) | Choice(items):
            return next((found for item in items if (found := _lacking(item, card))), "")
        case _:
            return ""
