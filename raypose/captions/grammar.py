r"""The caption grammar: a finite, typed tree of templates, its text form and its stored form.

Text form, as written in recipes::

    a photo of a {person|someone} in <name>[, <sanskrit>]

    <field>       a field of the card; see FIELDS
    {a|b}         a choice; [a] an option: a, or nothing
    (a;b;c)       items joined by ", ", empty ones left out
    {fixed: a|b}  a binding; also search, sample (the default) and ensemble, and likewise in [ ]
    \             takes the next sign as it stands

A binding says who chooses a branch: ``fixed`` the first, always; ``search`` the study, once a trial
(`bind`), and the first elsewhere; ``sample`` a draw per class and step in training, the first at
evaluation; ``ensemble`` a draw in training, all of them averaged at evaluation. There is no
recursion and no evaluation of code, so that a grammar can be counted, enumerated and hashed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from raypose.captions.nodes import (
    BINDINGS,
    FIELDS,
    Binding,
    Choice,
    Field,
    Join,
    Lit,
    Node,
    Opt,
    Seq,
)
from raypose.config import document_hash
from raypose.errors import CaptionError, did_you_mean

__all__ = ["format_grammar", "from_json", "from_templates", "grammar_hash", "parse", "to_json"]


MAX_DEPTH = 100
"""Of brackets in one another."""


def parse(text: str) -> Node:
    """Read the text form.

    Raises:
        CaptionError: pointing at the column of the first fault.
    """
    parser = _Parser(text)
    if _depth(text) > MAX_DEPTH:
        raise CaptionError(f"captions: nested too deep; {MAX_DEPTH} brackets in one another do")
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
    return document_hash(to_json(node))


def from_templates(templates: Iterable[str]) -> Node:
    """Make an ensemble of plain templates, in which ``{}`` stands for the name.

    Raises:
        CaptionError: where a template has no ``{}``, or there are none.
    """
    branches: list[Node] = []
    for line, template in enumerate(templates, start=1):
        parts = template.strip().split("{}")
        if len(parts) == 1:
            raise CaptionError(f"captions: template {line}: no {{}} in {template.strip()!r}")
        nodes: list[Node] = [Lit(parts[0])]
        for part in parts[1:]:
            nodes += [Field("name"), Lit(part)]
        branches.append(Seq(tuple(node for node in nodes if node != Lit(""))))
    if not branches:
        raise CaptionError("captions: no template; give at least one line with {}")
    return branches[0] if len(branches) == 1 else Choice(tuple(branches), "ensemble")


def _depth(text: str) -> int:
    """Return how deep brackets of a text are in one another at most; not where one is escaped."""
    depths = accumulate((sign in "{[(") - (sign in "}])") for sign in re.sub(r"\\.", "", text))
    return max(depths, default=0)


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
