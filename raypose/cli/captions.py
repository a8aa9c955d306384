"""Classes and captions: `taxonomy` and `captions`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from raypose.cli.verbs import Call, Keys, Verb, Word
from raypose.console import plural

__all__ = ["VERBS"]

GRAMMAR = Word("GRAMMAR", "a preset, a file (.txt, .json), or the text of a grammar")
TAXONOMY = Word("TAXONOMY", "a shipped taxonomy, or a YAML file")


class CardKeys(Keys):
    """Which class cards."""

    taxonomy: str = "yoga82"
    """Name of a shipped taxonomy, or path of a YAML file."""


class ShowKeys(CardKeys):
    """How to show a grammar."""

    form: Literal["text", "json", "templates", "controls"] = "text"
    """The form to print it in."""


class CheckKeys(CardKeys):
    """By what to prove a grammar."""

    tokenizer: str = ""
    """An open_clip model whose tokenizer tells captions apart; by default their letters do."""


class SampleKeys(CardKeys):
    """Which captions to draw."""

    num: int = Field(1, ge=1)
    """Captions of each class."""
    seed: int = Field(0, ge=0)
    """Of the draws."""


def taxonomy_init(call: Call) -> None:
    """Make class cards from folder names."""
    from raypose.captions import taxonomy
    from raypose.console import status

    made = taxonomy.from_folders(call.words[0])
    known = taxonomy.matching(made.ids)
    if known and known[0][1] == len(made):
        name, count = known[0]
        classes = plural(count, "folder is a class", "folders are classes")
        status(f"all {classes} of {name}: taxonomy={name} knows them too")
    call.show(made.to_dict(), taxonomy.format_taxonomy(made).rstrip())


def taxonomy_list(call: Call) -> None:
    """List the taxonomies that come with raypose."""
    from raypose.captions import taxonomy

    sizes = {name: len(taxonomy.load(name)) for name in taxonomy.shipped()}
    width = max(map(len, sizes))
    lines = [f"{name:<{width}}  {plural(size, 'class')}" for name, size in sizes.items()]
    call.show({"taxonomies": sizes}, "\n".join(lines))


def taxonomy_show(call: Call) -> None:
    """Check a taxonomy and list its classes."""
    from raypose.captions import taxonomy

    loaded = taxonomy.load(call.words[0])
    rows = [f"{k:3}  {c.name}  ({' > '.join(reversed(c.parents))})  {c.id}" for k, c in
            enumerate(loaded.cards)]  # fmt: skip
    head = f"{loaded.name}: {plural(len(loaded), 'class')}"
    call.show(loaded.to_dict(), "\n".join([head, *rows]))


def taxonomy_check(call: Call) -> None:
    """Check a taxonomy, in one line."""
    from raypose.captions import taxonomy

    loaded = taxonomy.load(call.words[0])
    with_facets = sum(card.facets != taxonomy.Facets() for card in loaded.cards)
    counts = [len(level) for level in loaded.levels]
    above = " and ".join(map(str, counts))
    document = {
        "taxonomy": loaded.name,
        "classes": len(loaded),
        "parents": counts,
        "facets": with_facets,
    }
    text = (
        f"{loaded.name}: {plural(len(loaded), 'class')}{f' under {above} parents' if above else ''}"
    )
    call.show(document, f"{text}; facets on {with_facets}")


def captions_list(call: Call) -> None:
    """List the grammars that come with raypose."""
    from raypose.captions import PRESETS

    width = max(map(len, PRESETS))
    lines = [f"{name:<{width}}  {text}" for name, text in PRESETS.items()]
    call.show({"presets": PRESETS}, "\n".join(lines))


def _grammar_and_cards(call: Call) -> tuple[Any, Any]:
    """Return the grammar and the class cards of a captions command."""
    from raypose import captions
    from raypose.captions import taxonomy

    return captions.read(call.words[0]), taxonomy.load(call.keys.taxonomy)


def captions_show(call: Call) -> None:
    """Print a grammar in one of its forms."""
    from raypose import captions
    from raypose.captions import grammar, taxonomy

    node = captions.read(call.words[0])

    def controls() -> str:
        found = captions.controls(node, taxonomy.load(call.keys.taxonomy))
        return "\n".join(f"{name}: {grammar.format_grammar(g)}" for name, g in found.items())

    forms: dict[str, Callable[[], str]] = {
        "text": lambda: grammar.format_grammar(node),
        "json": lambda: json.dumps(grammar.to_json(node), ensure_ascii=False),
        "templates": lambda: "\n".join(captions.templates(node)),
        "controls": controls,
    }
    text = forms[call.keys.form]()
    call.show({"hash": grammar.grammar_hash(node), "grammar": grammar.to_json(node)}, text)


def captions_check(call: Call) -> None:
    """Prove a grammar on class cards."""
    from raypose import captions
    from raypose.captions import grammar
    from raypose.console import waiting

    node, classes = _grammar_and_cards(call)
    tokenize, context_length = None, None
    if call.keys.tokenizer:
        with waiting("loading torch and open_clip"):
            from raypose.clip import tokens

            tokenize, context_length = tokens.build_tokenizer(call.keys.tokenizer)
    captions.check(node, classes, tokenize=tokenize, context_length=context_length)
    pruned = captions.prune(node, classes, tokenize=tokenize)
    document = {
        "taxonomy": classes.name,
        "classes": len(classes),
        "tokenizer": call.keys.tokenizer or None,
        "captions": sum(captions.count(node, card) for card in classes.cards),
        "sides": captions.sides(node, classes),
        "partial": {
            branch: number
            for branch, number in captions.coverage(node, classes)
            if number < len(classes)
        },
        "pruned": None if pruned == node else grammar.format_grammar(pruned),
    }
    held = f"holds for {plural(len(classes), 'class')} of {classes.name}"
    lines = [f"{held}: {plural(document['captions'], 'caption')}"]
    if document["sides"]:
        lines.append("tells left from right: pictures are not mirrored in training")
    for branch, number in document["partial"].items():
        lines.append(f"covers {number} of {len(classes)} classes only: {branch}")
    if document["pruned"]:
        lines.append(f"says the same as the shorter: {document['pruned']}")
    call.show(document, "\n".join(lines))


def captions_count(call: Call) -> None:
    """Count the captions of a grammar."""
    from raypose import captions

    node, classes = _grammar_and_cards(call)
    counts = {card.id: captions.count(node, card) for card in classes.cards}
    document = {"total": sum(counts.values()), "classes": counts}
    low, high = min(counts.values()), max(counts.values())
    total = plural(sum(counts.values()), "caption")
    call.show(document, f"{total} of {plural(len(classes), 'class')}, {low} to {high} each")


def captions_sample(call: Call) -> None:
    """Draw captions as training does."""
    from raypose import captions

    node, classes = _grammar_and_cards(call)
    drawn = [
        {
            "step": step,
            "class": card.id,
            "caption": captions.sample(node, card, seed=call.keys.seed, step=step),
        }
        for step in range(call.keys.num)
        for card in classes.cards
    ]
    call.show({"captions": drawn}, "\n".join(str(row["caption"]) for row in drawn))


VERBS = (
    Verb(
        "taxonomy init",
        (Word("FOLDER", "one that holds a folder of pictures for each class"),),
        "make class cards from folder names",
        taxonomy_init,
        ("raypose taxonomy init pictures/train > postures.yaml",),
    ),
    Verb("taxonomy list", (), "list the taxonomies that ship", taxonomy_list,
         ("raypose taxonomy list",)),
    Verb("taxonomy show", (TAXONOMY,), "check a taxonomy and list its classes", taxonomy_show,
         ("raypose taxonomy show yoga82",)),
    Verb("taxonomy check", (TAXONOMY,), "check a taxonomy, in one line", taxonomy_check,
         ("raypose taxonomy check postures.yaml",)),
    Verb("captions list", (), "list the grammars that ship", captions_list,
         ("raypose captions list",)),
    Verb("captions show", (GRAMMAR,), "print a grammar as text, json, templates or its controls",
         captions_show, ("raypose captions show words form=json",), ShowKeys),
    Verb("captions check", (GRAMMAR,), "prove a grammar on class cards", captions_check,
         ('raypose captions check "<name>[, legs <legs>]" taxonomy=work tokenizer=ViT-B-32',),
         CheckKeys),
    Verb("captions count", (GRAMMAR,), "count the captions of a grammar", captions_count,
         ("raypose captions count words",), CardKeys),
    Verb("captions sample", (GRAMMAR,), "draw captions as training does", captions_sample,
         ("raypose captions sample words num=3 seed=1",), SampleKeys),
)  # fmt: skip
