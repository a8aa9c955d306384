"""Classes and captions: `taxonomy` and `captions`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from raypose.cli.request import PAIRS, Command, Request, options_of, show
from raypose.errors import UsageError, did_you_mean

__all__ = ["COMMANDS"]


def taxonomy_init(request: Request) -> None:
    """Make class cards from folder names."""
    from raypose.captions import taxonomy

    made = taxonomy.from_folders(request.words[0])
    show(request, made.to_dict(), taxonomy.format_taxonomy(made).rstrip())


def taxonomy_show(request: Request) -> None:
    """Check a taxonomy and list its classes."""
    from raypose.captions import taxonomy

    loaded = taxonomy.load(request.words[0])
    rows = [f"{k:3}  {c.name}  ({' > '.join(reversed(c.parents))})  {c.id}" for k, c in
            enumerate(loaded.cards)]  # fmt: skip
    show(request, loaded.to_dict(), "\n".join([f"{loaded.name}: {len(loaded)} classes", *rows]))


def taxonomy_check(request: Request) -> None:
    """Check a taxonomy, in one line."""
    from raypose.captions import taxonomy

    loaded = taxonomy.load(request.words[0])
    with_facets = sum(card.facets != taxonomy.Facets() for card in loaded.cards)
    counts = [len(level) for level in loaded.levels]
    above = " and ".join(map(str, counts))
    document = {
        "taxonomy": loaded.name,
        "classes": len(loaded),
        "parents": counts,
        "facets": with_facets,
    }
    text = f"{loaded.name}: {len(loaded)} classes{f' under {above} parents' if above else ''}"
    show(request, document, f"{text}; facets on {with_facets}")


def _grammar_and_cards(request: Request, **more: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return the grammar, the class cards and the options of a captions command."""
    from raypose import captions
    from raypose.captions import taxonomy

    options = options_of(request, taxonomy="yoga82", **more)
    return captions.read(request.words[0]), taxonomy.load(options["taxonomy"]), options


def captions_show(request: Request) -> None:
    """Print a grammar in one of its forms."""
    from raypose import captions
    from raypose.captions import grammar, taxonomy

    options = options_of(request, form="text", taxonomy="yoga82")
    node = captions.read(request.words[0])

    def controls() -> str:
        found = captions.controls(node, taxonomy.load(options["taxonomy"]))
        return "\n".join(f"{name}: {grammar.format_grammar(g)}" for name, g in found.items())

    forms: dict[str, Callable[[], str]] = {
        "text": lambda: grammar.format_grammar(node),
        "json": lambda: json.dumps(grammar.to_json(node), ensure_ascii=False),
        "templates": lambda: "\n".join(captions.templates(node)),
        "controls": controls,
    }
    if options["form"] not in forms:
        near = did_you_mean(options["form"], forms)
        raise UsageError(f"form: {options['form']!r} is none{near}; known: {', '.join(forms)}")
    text = forms[options["form"]]()
    show(request, {"hash": grammar.grammar_hash(node), "grammar": grammar.to_json(node)}, text)


def captions_check(request: Request) -> None:
    """Prove a grammar on class cards."""
    from raypose import captions
    from raypose.captions import grammar

    node, classes, options = _grammar_and_cards(request, tokenizer="")
    tokenize, context_length = None, None
    if options["tokenizer"]:
        from raypose.clip import tokens

        tokenize, context_length = tokens.build_tokenizer(options["tokenizer"])
    captions.check(node, classes, tokenize=tokenize, context_length=context_length)
    pruned = captions.prune(node, classes, tokenize=tokenize)
    document = {
        "taxonomy": classes.name,
        "classes": len(classes),
        "tokenizer": options["tokenizer"] or None,
        "captions": sum(captions.count(node, card) for card in classes.cards),
        "sides": captions.sides(node, classes),
        "partial": {
            branch: number
            for branch, number in captions.coverage(node, classes)
            if number < len(classes)
        },
        "pruned": None if pruned == node else grammar.format_grammar(pruned),
    }
    lines = [f"holds for {len(classes)} classes of {classes.name}: {document['captions']} captions"]
    if document["sides"]:
        lines.append("tells left from right: pictures are not mirrored in training")
    for branch, number in document["partial"].items():
        lines.append(f"covers {number} of {len(classes)} classes only: {branch}")
    if document["pruned"]:
        lines.append(f"says the same as the shorter: {document['pruned']}")
    show(request, document, "\n".join(lines))


def captions_count(request: Request) -> None:
    """Count the captions of a grammar."""
    from raypose import captions

    node, classes, _ = _grammar_and_cards(request)
    counts = {card.id: captions.count(node, card) for card in classes.cards}
    document = {"total": sum(counts.values()), "classes": counts}
    low, high = min(counts.values()), max(counts.values())
    text = f"{document['total']} captions of {len(classes)} classes, {low} to {high} each"
    show(request, document, text)


def captions_sample(request: Request) -> None:
    """Draw captions as training does."""
    from raypose import captions

    node, classes, options = _grammar_and_cards(request, num=1, seed=0)
    for step in range(options["num"]):
        for card in classes.cards:
            text = captions.sample(node, card, seed=options["seed"], step=step)
            show(request, {"step": step, "class": card.id, "caption": text}, text)


COMMANDS = {
    "taxonomy init": Command("FOLDER", "make class cards from folder names", taxonomy_init),
    "taxonomy show": Command("TAXONOMY", "check a taxonomy and list its classes", taxonomy_show),
    "taxonomy check": Command("TAXONOMY", "check a taxonomy, in one line", taxonomy_check),
    "captions show": Command(
        f"GRAMMAR {PAIRS}", "print a grammar as text, json or templates", captions_show
    ),
    "captions check": Command(f"GRAMMAR {PAIRS}", "prove a grammar on class cards", captions_check),
    "captions count": Command(
        f"GRAMMAR {PAIRS}", "count the captions of a grammar", captions_count
    ),
    "captions sample": Command(
        f"GRAMMAR {PAIRS}", "draw captions as training does", captions_sample
    ),
}
