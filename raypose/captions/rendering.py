"""What a grammar says of a class: count, enumerate, draw, and the captions at evaluation.

Draws follow from (seed, step, class) alone: alike on every rank. Everything is lazy: a grammar of
any size is counted and drawn from in no time, and never written out by accident.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

from raypose.captions.nodes import FIELDS, Choice, Field, Join, Lit, Node, Opt, Seq, children
from raypose.captions.taxonomy import Card
from raypose.errors import CaptionError

__all__ = ["count", "enumerate_captions", "evaluation_captions", "longest", "sample", "templates"]

MAX_ENSEMBLE = 64


Pick = Callable[[Choice | Opt, int], tuple[Sequence[int], bool]]
"""(branch point, number of ways) → (their order, whether one is enough)."""


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


def longest(node: Node, card: Card, size: Callable[[str], int]) -> str:
    """Return a caption of the longest branches: about the longest that a grammar has for a card.

    Args:
        node: the grammar.
        card: the class.
        size: of a text, such as its tokens.

    Raises:
        CaptionError: where there is no caption.
    """
    found = _longest(node, card, size)
    if found is None:
        raise CaptionError(f'captions: none for "{card.id}": its card lacks {_lacking(node, card)}')
    return _tidy(found)


def _longest(node: Node, card: Card, size: Callable[[str], int]) -> str | None:
    match node:
        case Lit(text):
            return text
        case Field(name):
            return FIELDS[name](card)
        case Seq(items) | Join(items):
            parts = [_longest(item, card, size) for item in items]
            if any(part is None for part in parts):
                return None
            separator = node.separator if isinstance(node, Join) else ""
            return separator.join(part for part in parts if part or not separator)  # type: ignore[misc]
        case Choice() | Opt():
            branches = node.items if isinstance(node, Choice) else (node.item,)
            found = [_longest(item, card, size) for item in branches]
            texts = [one for one in found if one is not None]
            return max(texts, key=size, default="" if isinstance(node, Opt) else None)


def templates(node: Node) -> list[str]:
    """Return what a grammar says at evaluation as plain templates with ``{}`` for the name.

    Raises:
        CaptionError: where it speaks of more than the name.
    """
    others = {leaf.name for leaf in leaves(node) if isinstance(leaf, Field)} - {"name"}
    if others:
        raise CaptionError(f"captions: <{min(others)}> has no place in a plain template")
    return evaluation_captions(node, Card(id="", names=("{}",)))


def leaves(node: Node) -> Iterator[Node]:
    below = children(node)
    if not below:
        yield node
    for child in below:
        yield from leaves(child)


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
