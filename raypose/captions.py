r"""The caption grammar: a finite, typed tree of templates over class cards.

Text form, as written in recipes::

    a photo of a {person|someone} in <name>[, <sanskrit>]

    <field>       a field of the card: name, sanskrit, parent, top
    {a|b}         a choice; [a] an option: a, or nothing
    (a;b;c)       items joined by ", ", empty ones left out
    {fixed: a|b}  a binding; also sample (the default) and ensemble, and likewise in [ ]
    \             takes the next sign as it stands

A binding says who chooses a branch: ``fixed`` the first, always; ``sample`` a draw per class and
step in training, the first at evaluation; ``ensemble`` a draw in training, all of them averaged at
evaluation. There is no recursion and no evaluation of code, so that a grammar can be counted,
enumerated and hashed. Draws follow from (seed, step, class) alone: alike on every rank.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raypose.config import CaptionConfig, canonical_json
from raypose.errors import CaptionError, did_you_mean
from raypose.taxonomy import Card, Taxonomy

__all__ = [
    "PRESETS",
    "Choice",
    "Field",
    "Join",
    "Lit",
    "Node",
    "Opt",
    "Seq",
    "check",
    "count",
    "enumerate_captions",
    "evaluation_captions",
    "format_grammar",
    "from_json",
    "grammar_hash",
    "load",
    "parse",
    "sample",
    "to_json",
]

Binding = Literal["fixed", "sample", "ensemble"]
BINDINGS: tuple[Binding, ...] = ("fixed", "sample", "ensemble")
MAX_ENSEMBLE = 64

PRESETS = {
    "name": "<name>",
    "photo": "a photo of a person in <name>",
    "words": "a {photo|picture|snapshot} of {a person|someone|somebody} "
    "{in|doing|practising|holding} [the ]<name>",
    "ensemble": "{ensemble: a photo of a person in <name>|a picture of someone doing <name>"
    "|<name>, a body posture}",
    "sanskrit": "a photo of a person in <name>[fixed:, <sanskrit>]",
    "tree": "a photo of a person in (<name>;<parent>)",
}

FIELDS: dict[str, Callable[[Card], str | None]] = {
    "name": lambda card: card.name,
    "sanskrit": lambda card: card.sanskrit[0] if card.sanskrit else None,
    "parent": lambda card: card.parents[0] if card.parents else None,
    "top": lambda card: card.parents[-1] if card.parents else None,
}


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


def parse(text: str) -> Node:
    """Read the text form.

    Raises:
        CaptionError: pointing at the column of the first fault.
    """
    parser = _Parser(text)
    node = parser.sequence(stops="")
    if parser.position < len(text):
        raise parser.error(f"unexpected {text[parser.position]!r}")
    return node


def format_grammar(node: Node) -> str:
    """Write the text form; `parse` gives the same tree back."""
    match node:
        case Lit(text):
            return "".join(f"\\{sign}" if sign in "<>{}[]()|;:\\" else sign for sign in text)
        case Field(name):
            return f"<{name}>"
        case Seq(items):
            return "".join(map(format_grammar, items))
        case Choice(items, binding):
            return f"{{{binding}:{'|'.join(map(format_grammar, items))}}}"
        case Opt(item, binding):
            return f"[{binding}:{format_grammar(item)}]"
        case Join(items):
            return f"({';'.join(map(format_grammar, items))})"


def to_json(node: Node) -> Any:
    """Return the canonical form that is stored."""
    match node:
        case Lit(text):
            return {"lit": text}
        case Field(name):
            return {"field": name}
        case Seq(items):
            return {"seq": [to_json(item) for item in items]}
        case Choice(items, binding):
            return {"choice": [to_json(item) for item in items], "binding": binding}
        case Opt(item, binding):
            return {"opt": to_json(item), "binding": binding}
        case Join(items, separator):
            return {"join": [to_json(item) for item in items], "separator": separator}


def from_json(document: Any) -> Node:
    """Read the canonical form."""
    match document:
        case {"lit": str(text)}:
            return Lit(text)
        case {"field": str(name)} if name in FIELDS:
            return Field(name)
        case {"seq": list(items)}:
            return Seq(tuple(map(from_json, items)))
        case {"choice": list(items), "binding": binding} if binding in BINDINGS:
            return Choice(tuple(map(from_json, items)), binding)
        case {"opt": item, "binding": binding} if binding in BINDINGS:
            return Opt(from_json(item), binding)
        case {"join": list(items), "separator": str(separator)}:
            return Join(tuple(map(from_json, items)), separator)
        case _:
            raise CaptionError(f"captions: not a grammar node: {str(document)[:60]}")


def grammar_hash(node: Node) -> str:
    """Return the sha256 of the canonical form, which names a grammar."""
    return hashlib.sha256(canonical_json(to_json(node)).encode()).hexdigest()


def count(node: Node, card: Card) -> int:
    """Return how many ways there are through the grammar for a card; two may read alike."""
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
    for text in _render(node, card, _pick_evaluation):
        captions[_tidy(text)] = None
        if len(captions) > MAX_ENSEMBLE:
            raise CaptionError(
                f'captions: over {MAX_ENSEMBLE} in the ensemble for "{card.id}"; '
                "bind some choices as sample or fixed"
            )
    if not captions:
        raise CaptionError(f'captions: none for "{card.id}": its card lacks {_lacking(node, card)}')
    return list(captions)


def sample(node: Node, card: Card, *, seed: int, step: int) -> str:
    """Draw a training caption: a function of (seed, step, class) and nothing else."""
    rng = random.Random(f"{seed}/{step}/{card.id}")

    def pick(branch: Choice | Opt, ways: int) -> tuple[Sequence[int], bool]:
        first = 0 if branch.binding == "fixed" else rng.randrange(ways)
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


class _Parser:
    """Recursive descent over the text form; it never looks back."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def error(self, message: str) -> CaptionError:
        """Make an error that shows the place."""
        around = self.text[max(0, self.position - 20) : self.position + 10]
        return CaptionError(f'captions: column {self.position + 1}: {message} near "{around}"')

    def sequence(self, *, stops: str) -> Node:
        """Read parts up to one of the stop signs."""
        items: list[Node] = []
        while self.position < len(self.text) and self.text[self.position] not in stops:
            items.append(self.part(stops))
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def part(self, stops: str) -> Node:
        """Read one node."""
        sign = self.text[self.position]
        match sign:
            case "<":
                return self.field()
            case "{":
                self.position += 1
                binding = self.binding()
                return Choice(self.items("|", "}"), binding)
            case "[":
                self.position += 1
                binding = self.binding()
                items = self.items("", "]")
                return Opt(items[0], binding)
            case "(":
                self.position += 1
                return Join(self.items(";", ")"))
            case _ if sign in ">}])":
                raise self.error(f"unexpected {sign!r}; write \\{sign} for the sign itself")
            case _:
                return self.literal(stops)

    def field(self) -> Node:
        """Read ``<name>``."""
        end = self.text.find(">", self.position)
        if end < 0:
            raise self.error("<field> is never closed")
        name = self.text[self.position + 1 : end]
        if name not in FIELDS:
            raise self.error(
                f"no field <{name}>{did_you_mean(name, FIELDS)}; known: {', '.join(FIELDS)};"
            )
        self.position = end + 1
        return Field(name)

    def binding(self) -> Binding:
        """Read ``sample:`` and the like where one stands."""
        for binding in BINDINGS:
            if self.text.startswith(f"{binding}:", self.position):
                self.position += len(binding) + 1
                return binding
        return "sample"

    def items(self, separator: str, close: str) -> tuple[Node, ...]:
        """Read parts up to the closing sign."""
        items = [self.sequence(stops=separator + close)]
        while self.position < len(self.text) and self.text[self.position] != close:
            self.position += 1
            items.append(self.sequence(stops=separator + close))
        if self.position >= len(self.text):
            raise self.error(f"{close!r} is missing")
        self.position += 1
        return tuple(items)

    def literal(self, stops: str) -> Node:
        """Read text up to the next sign that means something."""
        out = []
        while self.position < len(self.text):
            sign = self.text[self.position]
            if sign == "\\" and self.position + 1 < len(self.text):
                self.position += 1
                sign = self.text[self.position]
            elif sign in "<>{}[]()" or sign in stops:
                break
            out.append(sign)
            self.position += 1
        return Lit("".join(out))
