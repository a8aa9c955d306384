"""The nodes of a grammar, a finite tree: what its parts are, and how a study settles its choices.

No recursion and no evaluation: a grammar can be counted, enumerated and hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
