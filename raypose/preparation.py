"""The commands before training: classes, captions, shards, drawn pictures; made and looked over.

Heavy things are imported inside the commands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypose.errors import UsageError, did_you_mean
from raypose.request import Request, options_of, show

__all__ = [
    "captions_check",
    "captions_count",
    "captions_sample",
    "captions_show",
    "shards_build",
    "shards_dedupe",
    "shards_show",
    "shards_split",
    "shards_verify",
    "synthesize",
    "taxonomy_check",
    "taxonomy_init",
    "taxonomy_show",
]


def taxonomy_init(request: Request) -> None:
    """Make class cards from folder names."""
    from raypose import taxonomy

    made = taxonomy.from_folders(request.words[0])
    show(request, made.to_dict(), taxonomy.format_taxonomy(made).rstrip())


def taxonomy_show(request: Request) -> None:
    """Check a taxonomy and list its classes."""
    from raypose import taxonomy

    loaded = taxonomy.load(request.words[0])
    rows = [f"{k:3}  {c.name}  ({' > '.join(reversed(c.parents))})  {c.id}" for k, c in
            enumerate(loaded.cards)]  # fmt: skip
    show(request, loaded.to_dict(), "\n".join([f"{loaded.name}: {len(loaded)} classes", *rows]))


def taxonomy_check(request: Request) -> None:
    """Check a taxonomy, in one line."""
    from raypose import taxonomy

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


def _spoken(request: Request, **more: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return the grammar, the class cards and the options of a captions command."""
    from raypose import captions, taxonomy

    options = options_of(request, taxonomy="yoga82", **more)
    return captions.read(request.words[0]), taxonomy.load(options["taxonomy"]), options


def captions_show(request: Request) -> None:
    """Print a grammar in one of its forms."""
    from raypose import captions, grammar, taxonomy

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
    from raypose import captions, grammar

    node, classes, options = _spoken(request, tokenizer="")
    tokenize, context_length = None, None
    if options["tokenizer"]:
        from raypose import model

        tokenize, context_length = model.build_tokenizer(options["tokenizer"])
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
        lines.append(f"speaks of {number} of {len(classes)} classes only: {branch}")
    if document["pruned"]:
        lines.append(f"says the same as the shorter: {document['pruned']}")
    show(request, document, "\n".join(lines))


def captions_count(request: Request) -> None:
    """Count what a grammar can say."""
    from raypose import captions

    node, classes, _ = _spoken(request)
    counts = {card.id: captions.count(node, card) for card in classes.cards}
    document = {"total": sum(counts.values()), "classes": counts}
    low, high = min(counts.values()), max(counts.values())
    text = f"{document['total']} captions of {len(classes)} classes, {low} to {high} each"
    show(request, document, text)


def captions_sample(request: Request) -> None:
    """Draw captions as training does."""
    from raypose import captions

    node, classes, options = _spoken(request, num=1, seed=0)
    for step in range(options["num"]):
        for card in classes.cards:
            text = captions.sample(node, card, seed=options["seed"], step=step)
            show(request, {"step": step, "class": card.id, "caption": text}, text)


@contextmanager
def _spread(num_workers: int, *, verbose: bool) -> Iterator[Any]:
    """Yield what runs tasks: Ray where a cluster is named or workers are asked for, else here."""
    from raypose import shards

    if not num_workers and not os.environ.get("RAY_ADDRESS"):
        yield shards.here
        return
    import ray

    from raypose import config, runtime

    with runtime.connect(config.ClusterConfig(num_cpus=max(2, num_workers)), verbose=verbose):
        yield runtime.spread(num_workers or max(1, int(ray.cluster_resources().get("CPU", 1))))


def shards_build(request: Request) -> None:
    """Pack pictures of any source into shards."""
    from raypose import shards, sources, taxonomy
    from raypose.console import bar

    how = asdict(shards.Packing())
    defaults = {"kind": "auto", "pictures": "", "taxonomy": "", "overwrite": False}
    options = options_of(request, **defaults, **how, num_workers=0)
    source, dest = request.words
    classes = taxonomy.load(options["taxonomy"]) if options["taxonomy"] else None
    listing = sources.find(
        source, kind=options["kind"], pictures=options["pictures"], classes=classes
    )
    packing = shards.Packing(**{key: options[key] for key in how})
    with _spread(options["num_workers"], verbose=request.verbose) as run, bar("packing") as update:
        manifest = shards.pack(
            listing, dest, packing, overwrite=options["overwrite"], progress=update, run=run
        )
    _tell_packed(request, dest, manifest)


def _tell_packed(request: Request, dest: str, manifest: Any) -> None:
    """Say what was packed; what was left out goes to stderr, a line each."""
    from raypose.console import say

    for rejected in manifest.rejected:
        say(f"left out {rejected.id}: {rejected.reason}")
    for label, listed in (manifest.listed or {}).items():
        say(f"{label}: {manifest.labels.get(label, 0)} of {listed} downloaded")
    text = (
        f"packed {manifest.num_rows} pictures of {len(manifest.labels)} classes into "
        f"{len(manifest.shards)} shards at {dest}; left out {len(manifest.rejected)}"
    )
    if manifest.listed:
        text += f"; downloaded {manifest.num_rows} of {sum(manifest.listed.values())} listed"
    show(request, {"data": dest, **manifest.to_dict()}, text)


def shards_verify(request: Request) -> None:
    """Compare shards with their manifest."""
    from raypose import shards
    from raypose.console import bar

    options_of(request)
    with bar("verifying") as update:
        manifest = shards.verify(request.words[0], progress=update)
    text = (
        f"{request.words[0]}: whole; {manifest.num_rows} pictures, {len(manifest.labels)} classes"
    )
    show(request, {"data": request.words[0], "num_rows": manifest.num_rows, "whole": True}, text)


TWINS = {"max_distance": 6, "min_cosine": 0.96, "model": "", "num_workers": 0}


def _inspected(request: Request, urls: Sequence[str], options: dict[str, Any]) -> Any:
    """Return the pictures of data sets and their groups of near-duplicates."""
    import numpy as np

    from raypose import inspection, shards
    from raypose.console import bar

    for url in urls:
        shards.read_manifest(url)  # before anything starts
    with _spread(options["num_workers"], verbose=request.verbose) as run:
        with bar("looking") as update:
            rows = inspection.inspect(urls, progress=update, run=run)
    features = None
    if options["model"]:
        from raypose import config, embedding, runtime

        settings = config.ModelConfig(backbone=options["model"])
        with runtime.connect(config.ClusterConfig(), verbose=request.verbose):
            with bar("embedding") as update:
                features = np.concatenate(
                    [embedding.embed(url, settings, progress=update) for url in urls]
                )
    groups = inspection.cluster(
        rows,
        max_distance=options["max_distance"],
        features=features,
        min_cosine=options["min_cosine"],
    )
    return rows, groups


def shards_dedupe(request: Request) -> None:
    """List near-duplicates within shards and between."""
    first, *others = request.words
    rows, groups = _inspected(request, request.words, options_of(request, **TWINS))
    twinned = {
        number
        for group in groups
        if any(rows[k].data == first for k in group)
        for number in group
        if rows[number].data != first
    }
    sizes = {url: sum(row.data == url for row in rows) for url in others}
    leaks = {url: sum(rows[number].data == url for number in twinned) for url in others}
    lines = [
        "  ".join(f"{rows[k].data}/{rows[k].id}" if others else rows[k].id for k in group)
        for group in groups
    ]
    lines.append(
        f"{sum(map(len, groups))} of {len(rows)} pictures in {len(groups)} groups of twins"
    )
    lines += [
        f"{leaks[url]} of {sizes[url]} pictures of {url} have a twin in {first}" for url in others
    ]
    document = {
        "groups": [[{"data": rows[k].data, "id": rows[k].id} for k in group] for group in groups],
        "num_rows": len(rows),
        "twins_in_first": leaks,
    }
    show(request, document, "\n".join(lines))


def shards_split(request: Request) -> None:
    """Divide shards, near-duplicates on one side."""
    from raypose import shards, splits
    from raypose.console import bar

    defaults = {"val": 0.1, "test": 0.0, "seed": 0, "rows_per_shard": 256, "overwrite": False}
    options = options_of(request, **defaults, **TWINS)
    source, dest = request.words
    rows, groups = _inspected(request, [source], options)
    shares = {part: options[part] for part in ("val", "test") if options[part]}
    split = splits.assign(rows, groups, shares=shares, seed=options["seed"])
    packing = shards.Packing(
        rows_per_shard=options["rows_per_shard"], seed=options["seed"], check=False
    )
    with _spread(options["num_workers"], verbose=request.verbose) as run:
        with bar("splitting") as update:
            written = splits.write(
                source, dest, split, packing,
                overwrite=options["overwrite"], progress=update, run=run,
            )  # fmt: skip
    counts = {part: manifest.num_rows for part, manifest in written.items()}
    told = ", ".join(f"{part} {count}" for part, count in counts.items())
    text = (
        f"{told} at {dest}; {sum(map(len, groups))} pictures in {len(groups)} groups of "
        "near-duplicates, each on one side"
    )
    show(request, {"data": dest, "parts": counts, "groups": len(groups)}, text)


def shards_show(request: Request) -> None:
    """Make a page to look shards over."""
    from raypose import sheet

    options = options_of(request, out="shards.html", per_class=6, **TWINS)
    (url,) = request.words
    rows, groups = _inspected(request, [url], options)
    made = sheet.gather(url, rows, groups, per_class=options["per_class"])
    sheet.save(made, options["out"])
    doubtful = [{"id": rows[number].id, "reason": why} for number, why in made.doubtful]
    document = {"data": url, "page": options["out"], "num_rows": len(rows), "doubtful": doubtful}
    show(request, document, f"{sheet.summary(made)}\n{options['out']}")


def synthesize(request: Request) -> None:
    """Draw pictures of postures."""
    from raypose import shards, sources, synthesis, taxonomy
    from raypose.console import bar

    defaults = {"taxonomy": "yoga82", "per_class": 100, "size": 128, "seed": 0, "fill": ""}
    options = options_of(request, form="folder", overwrite=False, num_workers=0, **defaults)
    (dest,), size, seed = request.words, options["size"], options["seed"]
    counts = dict.fromkeys(taxonomy.load(options["taxonomy"]).ids, options["per_class"])
    synthesis.drawn(counts)
    if options["fill"]:
        there = shards.read_manifest(options["fill"]).labels
        counts = {label: max(0, count - there.get(label, 0)) for label, count in counts.items()}
    counts = {label: count for label, count in counts.items() if count}
    if options["form"] == "shards":
        with _spread(options["num_workers"], verbose=request.verbose) as run:
            with bar("drawing") as update:
                shards.pack(
                    sources.drawings(counts, size=size, seed=seed), dest,
                    shards.Packing(check=False), overwrite=options["overwrite"],
                    progress=update, run=run,
                )  # fmt: skip
    elif options["form"] == "folder":
        with bar("drawing") as update:
            synthesis.synthesize(Path(dest), counts, size=size, seed=seed, progress=update)
    else:
        raise UsageError(f"form: {options['form']!r} is none; known: folder, shards")
    total = sum(counts.values())
    text = f"drew {total} pictures of {len(counts)} postures in {dest}"
    show(request, {options["form"]: dest, "num_pictures": total}, text)
