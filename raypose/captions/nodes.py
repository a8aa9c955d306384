"""The nodes of a grammar, a finite tree: what its parts are, and how a study settles its choices.

No recursion and no evaluation: a grammar can be counted, enumerated and hashed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from raypose.captions.taxonomy import Card

__all__ = [
    "BINDINGS",
    "FIELDS",
    "Binding",
    "Choice",
    "Field",
    "Join",
    "Lit",
    "Node",
    "Opt",
    "Seq",
    "bind",
    "children",
    "rebuilt",
    "searched",
    "settled",
]

Binding = Literal["fixed", "search", "sample", "ensemble"]


BINDINGS: tuple[Binding, ...] = ("fixed", "search", "sample", "ensemble")


FIELDS: dict[str, Callable[[Card], str | None]] = {
    "name": lambda card: card.name,
    "also": lambda card: card.names[1] if len(card.names) > 1 else None,
    "sanskrit": lambda card: card.sanskrit[0] if card.sanskrit else None,
    "parent": lambda card: card.parents[0] if card.parents else None,
    "top": lambda card: card.parents[-1] if card.parents else None,
    "base": lambda card: card.facets.base,
    "orientation": lambda card: card.facets.orientation,
    "support": lambda card: " and ".join(card.facets.support) or None,
    "torso": lambda card: card.facets.torso,
    "legs": lambda card: card.facets.legs,
    "arms": lambda card: card.facets.arms,
}
"""Field → what it says of a card; None where the card does not say."""


@dataclass(frozen=True)
class Lit:
    """Text as it stands."""

    text: str


@dataclass(frozen=True)
class Field:
    """A field of the card."""

    name: str


@dataclass(frozen=True)
class Seq:
    """Parts one after another."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """One of several branches."""

    items: tuple[Node, ...]
    binding: Binding = "sample"


@dataclass(frozen=True)
class Opt:
    """A part or nothing; nothing also where the part needs a field that the card lacks."""

    item: Node
    binding: Binding = "sample"


@dataclass(frozen=True)
class Join:
    """Parts with a separator between those that are not empty."""

    items: tuple[Node, ...]
    separator: str = ", "


Node = Lit | Field | Seq | Choice | Opt | Join


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes right below a node."""
    match node:
        case Seq(items) | Choice(items) | Join(items):
            return items
        case Opt(item):
            return (item,)
        case _:
            return ()


def rebuilt(node: Node, items: Sequence[Node]) -> Node:
    """Return a node with others in place of its children."""
    match node:
        case Opt():
            return replace(node, item=items[0])
        case Seq() | Choice() | Join():
            return replace(node, items=tuple(items))
        case _:
            return node


def searched(node: Node) -> bool:
    """Return whether a study has something to choose."""
    here = isinstance(node, Choice | Opt) and node.binding == "search"
    return here or any(map(searched, children(node)))


def bind(node: Node, choose: Callable[[str, int], int], *, place: str = "captions") -> Node:
    """Settle each `search` branch; what lies in a branch not taken is never asked for.

    Args:
        node: the grammar.
        choose: told a place in the tree, such as ``captions.2.0``, and the number of ways there;
            returns the one to take. An option's ways are to say it (0) and not to (1).
        place: of the node.
    """

    def below(number: int, item: Node) -> Node:
        return bind(item, choose, place=f"{place}.{number}")

    match node:
        case Choice(items, "search"):
            number = choose(place, len(items))
            return below(number, items[number])
        case Opt(item, "search"):
            return below(0, item) if choose(place, 2) == 0 else Seq(())
        case _:
            return rebuilt(node, [below(k, item) for k, item in enumerate(children(node))])


def settled(
    node: Node, *, limit: int, seed: int = 0, place: str = "captions"
) -> Iterator[tuple[Node, dict[str, int]]]:
    """Yield the forms that `bind` can give a grammar, each with what was chosen: place → way.

    Args:
        node: the grammar.
        limit: of forms: all where there are no more, in the order of the branches; else the first
            and others, no two of the same choices, drawn so that each form is as likely.
        seed: of the draws.
        place: of the node.
    """
    sizes: dict[str, list[int]] = {}
    every = _all_settled(node, place)
    if _sizes(node, place, sizes) <= limit:
        yield from every
        return
    rng = random.Random(seed)
    seen: set[tuple[tuple[str, int], ...]] = set()
    form, chosen = next(every)
    while len(seen) < limit:
        key = tuple(chosen.items())
        if key not in seen:
            seen.add(key)
            yield form, chosen
        chosen = {}
        form = bind(node, partial(_drawn, rng, sizes, chosen), place=place)


def _drawn(
    rng: random.Random, sizes: Mapping[str, list[int]], chosen: dict[str, int], at: str, ways: int
) -> int:
    """Draw a way as often as forms lie down it, and note it."""
    (chosen[at],) = rng.choices(range(ways), sizes[at])
    return chosen[at]


def _all_settled(node: Node, place: str) -> Iterator[tuple[Node, dict[str, int]]]:
    """Yield every form: the last choice that has another way takes it, as an odometer turns."""
    prefix: list[int] = []
    while True:
        asked: dict[str, int] = {}
        form = bind(node, partial(_next, prefix, asked), place=place)
        yield form, dict(zip(asked, prefix, strict=True))
        ends = list(asked.values())
        while prefix and prefix[-1] == ends[len(prefix) - 1] - 1:
            prefix.pop()
        if not prefix:
            return
        prefix[-1] += 1


def _next(prefix: list[int], asked: dict[str, int], at: str, ways: int) -> int:
    """Return the way at a place: what the prefix says, or the first; note how many there are."""
    if len(asked) == len(prefix):
        prefix.append(0)
    asked[at] = ways
    return prefix[len(asked) - 1]


def _sizes(node: Node, place: str, sizes: dict[str, list[int]]) -> int:
    """Return how many settled forms a node has; note how many lie down each way of a place."""
    below = [_sizes(item, f"{place}.{k}", sizes) for k, item in enumerate(children(node))]
    if not (isinstance(node, Choice | Opt) and node.binding == "search"):
        return math.prod(below)
    sizes[place] = below if isinstance(node, Choice) else [*below, 1]
    return sum(sizes[place])
