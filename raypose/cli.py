"""The command line: ``raypose VERB … key=value``. It parses first and imports heavy things later.

Progress and errors go to stderr, results to stdout; ``--json`` prints them for machines. A user's
mistake is one line and an exit code, never a traceback unless ``--verbose`` asks for it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from raypose.errors import RayposeError, UsageError, did_you_mean

__all__ = ["main"]

MISSING = dict.fromkeys(("matplotlib", "open_clip", "optuna", "ray", "torch"), "train")
MISSING |= {"peft": "lora"}
MISSING |= {"fastapi": "serve", "moto": "demo", "boto3": "demo", "httpx": "demo"}


@dataclass(frozen=True)
class Request:
    """A parsed command line: words in place, key=value pairs, flags."""

    words: list[str]
    assignments: list[str]
    flags: frozenset[str]

    @property
    def json(self) -> bool:
        """Results are for a machine."""
        return "--json" in self.flags

    @property
    def verbose(self) -> bool:
        """Show everything."""
        return "--verbose" in self.flags


@dataclass(frozen=True)
class Command:
    """A verb: what it takes, what it is for, and what it does."""

    usage: str
    summary: str
    run: Callable[[Request], None]
    flags: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """Names of the words that must be given, in order."""
        return [word for word in self.usage.split() if word.isupper()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in arguments
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        _dispatch(arguments)
    except RayposeError as error:
        if verbose:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        extra = MISSING.get((error.name or "").split(".")[0])
        if verbose or extra is None:
            raise
        print(f"{error.name} is not installed: pip install 'raypose[{extra}]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _dispatch(arguments: list[str]) -> None:
    flags = frozenset(word for word in arguments if word.startswith("-"))
    words = [word for word in arguments if not word.startswith("-")]
    if not words:
        if flags & {"--version"}:
            from raypose import __version__

            print(__version__)
            return
        print(_help())
        if not flags & {"-h", "--help"}:
            raise UsageError("no command given")
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    if name not in COMMANDS:
        known = [key for key in COMMANDS if key.startswith(f"{name} ")]
        wanted = " ".join(words[:2]) if known else name
        choices = f"; there are: {', '.join(known)}" if known else "; see raypose --help"
        raise UsageError(f"{wanted}: no such command{did_you_mean(wanted, COMMANDS)}{choices}")
    command = COMMANDS[name]
    usage = f"usage: raypose {name} {command.usage}"
    if flags & {"-h", "--help"}:
        print(f"{usage}\n\n{command.summary}")
        return
    unknown = flags - {"--json", "--verbose", *command.flags}
    if unknown:
        raise UsageError(f"{name}: unknown option {min(unknown)}; {usage}")
    command.run(_parse(name, command, words[len(name.split()) :], flags))


def _parse(name: str, command: Command, rest: list[str], flags: frozenset[str]) -> Request:
    """Tell words in place from key=value pairs."""
    usage = f"usage: raypose {name} {command.usage}"
    pairs = [word for word in rest if re.match(r"[A-Za-z_][\w.-]*=", word)]
    words = [word for word in rest if word not in pairs]
    wanted = [word.removesuffix("…") for word in command.words]
    if len(words) < len(wanted):
        raise UsageError(f"{name}: {wanted[len(words)]} is missing; {usage}")
    if len(words) > len(wanted) and "…" not in "".join(command.words):
        raise UsageError(f"{name}: {words[len(wanted)]!r} is too much, or lacks key=; {usage}")
    return Request(words, pairs, flags)


def _help() -> str:
    width = max(len(f"{name} {command.usage}") for name, command in COMMANDS.items())
    width = min(width, 44)
    lines = ["raypose: recognise human postures with CLIP, at any scale", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {f'{name} {command.usage}':<{width}}  {command.summary}")
    lines += [
        "",
        "key=value overrides any setting of a recipe: optim.learning_rate=3e-5",
        "--json prints results for machines, --verbose everything, --version the version",
    ]
    return "\n".join(lines)


def _config(request: Request, recipe: str | None) -> Any:
    from raypose import config

    overrides = config.parse_assignments(request.assignments)
    if recipe is None:
        return config.absolute(config.override(config.Config(), overrides))
    return config.absolute(config.load(recipe, overrides))


def _options(request: Request, **defaults: Any) -> dict[str, Any]:
    """Read the key=value pairs of a command that has no recipe; types are the defaults'."""
    from raypose.config import parse_assignments

    options = dict(defaults)
    for key, value in parse_assignments(request.assignments).items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise UsageError(f"{key}: unknown key{did_you_mean(key, defaults)}; known: {known}")
        kind = type(defaults[key]) if defaults[key] is not None else int
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (kind is not bool and isinstance(value, bool)):
            raise UsageError(f"{key}: expected {kind.__name__}, found {value!r}")
        options[key] = value
    return options


def _parted(request: Request, **defaults: Any) -> tuple[Request, dict[str, Any]]:
    """Take a command's own options from among the keys of its recipe; a list may be one value."""
    own = [word for word in request.assignments if word.partition("=")[0] in defaults]
    rest = [word for word in request.assignments if word not in own]
    own = [
        f"{key}=[{value}]" if isinstance(defaults[key], list) and value[:1] != "[" else word
        for word in own
        for key, _, value in [word.partition("=")]
    ]
    options = _options(Request(request.words, own, request.flags), **defaults)
    return Request(request.words, rest, request.flags), options


def _ready(config: Any) -> None:
    """Answer mistakes in what a recipe names before anything heavy is loaded."""
    from raypose import inputs

    inputs.load(config)


def _print(request: Request, document: dict[str, Any], text: str) -> None:
    print(json.dumps(document, ensure_ascii=False) if request.json else text)


def _check(request: Request) -> None:
    from raypose import captions, config, taxonomy

    resolved = _config(request, request.words[0])
    captions.check(captions.load(resolved.captions), taxonomy.load(resolved.data.taxonomy))
    document = config.dump(resolved)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    _print(request, document, f"# {resolved.run_id}\n{text}".rstrip())


def _taxonomy_init(request: Request) -> None:
    from raypose import taxonomy

    made = taxonomy.from_folders(request.words[0])
    _print(request, made.to_dict(), taxonomy.format_taxonomy(made).rstrip())


def _taxonomy_show(request: Request) -> None:
    from raypose import taxonomy

    loaded = taxonomy.load(request.words[0])
    rows = [f"{k:3}  {c.name}  ({' > '.join(reversed(c.parents))})  {c.id}" for k, c in
            enumerate(loaded.cards)]  # fmt: skip
    _print(request, loaded.to_dict(), "\n".join([f"{loaded.name}: {len(loaded)} classes", *rows]))


def _taxonomy_check(request: Request) -> None:
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
    _print(request, document, f"{text}; facets on {with_facets}")


def _spoken(request: Request, **more: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return the grammar, the class cards and the options of a captions command."""
    from raypose import captions, taxonomy

    options = _options(request, taxonomy="yoga82", **more)
    return captions.read(request.words[0]), taxonomy.load(options["taxonomy"]), options


def _captions_show(request: Request) -> None:
    from raypose import captions, grammar, taxonomy

    options = _options(request, form="text", taxonomy="yoga82")
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
    _print(request, {"hash": grammar.grammar_hash(node), "grammar": grammar.to_json(node)}, text)


def _captions_check(request: Request) -> None:
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
    _print(request, document, "\n".join(lines))


def _captions_count(request: Request) -> None:
    from raypose import captions

    node, classes, _ = _spoken(request)
    counts = {card.id: captions.count(node, card) for card in classes.cards}
    document = {"total": sum(counts.values()), "classes": counts}
    low, high = min(counts.values()), max(counts.values())
    text = f"{document['total']} captions of {len(classes)} classes, {low} to {high} each"
    _print(request, document, text)


def _captions_sample(request: Request) -> None:
    from raypose import captions

    node, classes, options = _spoken(request, num=1, seed=0)
    for step in range(options["num"]):
        for card in classes.cards:
            text = captions.sample(node, card, seed=options["seed"], step=step)
            _print(request, {"step": step, "class": card.id, "caption": text}, text)


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


def _shards_build(request: Request) -> None:
    from raypose import shards, sources, taxonomy
    from raypose.console import bar

    how = asdict(shards.Packing())
    defaults = {"kind": "auto", "pictures": "", "taxonomy": "", "overwrite": False}
    options = _options(request, **defaults, **how, num_workers=0)
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
    _print(request, {"data": dest, **manifest.to_dict()}, text)


def _shards_verify(request: Request) -> None:
    from raypose import shards
    from raypose.console import bar

    _options(request)
    with bar("verifying") as update:
        manifest = shards.verify(request.words[0], progress=update)
    text = (
        f"{request.words[0]}: whole; {manifest.num_rows} pictures, {len(manifest.labels)} classes"
    )
    _print(request, {"data": request.words[0], "num_rows": manifest.num_rows, "whole": True}, text)


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


def _shards_dedupe(request: Request) -> None:
    first, *others = request.words
    rows, groups = _inspected(request, request.words, _options(request, **TWINS))
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
    _print(request, document, "\n".join(lines))


def _shards_split(request: Request) -> None:
    from raypose import shards, splits
    from raypose.console import bar

    defaults = {"val": 0.1, "test": 0.0, "seed": 0, "rows_per_shard": 256, "overwrite": False}
    options = _options(request, **defaults, **TWINS)
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
    _print(request, {"data": dest, "parts": counts, "groups": len(groups)}, text)


def _shards_show(request: Request) -> None:
    from raypose import sheet

    options = _options(request, out="shards.html", per_class=6, **TWINS)
    (url,) = request.words
    rows, groups = _inspected(request, [url], options)
    made = sheet.gather(url, rows, groups, per_class=options["per_class"])
    sheet.save(made, options["out"])
    doubtful = [{"id": rows[number].id, "reason": why} for number, why in made.doubtful]
    document = {"data": url, "page": options["out"], "num_rows": len(rows), "doubtful": doubtful}
    _print(request, document, f"{sheet.summary(made)}\n{options['out']}")


def _synthesize(request: Request) -> None:
    from raypose import shards, sources, synthesis, taxonomy
    from raypose.console import bar

    defaults = {"taxonomy": "yoga82", "per_class": 100, "size": 128, "seed": 0, "fill": ""}
    options = _options(request, form="folder", overwrite=False, num_workers=0, **defaults)
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
    _print(request, {options["form"]: dest, "num_pictures": total}, text)


def _train(request: Request) -> None:
    config = _config(request, request.words[0])
    _ready(config)
    from raypose import runtime, train

    with runtime.connect(config.cluster, verbose=request.verbose):
        result = train.run(config)
    figures = "  ".join(
        f"{key} {value:.4f}" for key, value in result.metrics.items() if isinstance(value, float)
    )
    text = f"{result.run_id}  best epoch {result.metrics['epoch']}  {figures}\n{result.checkpoint}"
    _print(request, asdict(result), text)


def _search(request: Request) -> None:
    config = _config(request, request.words[0])
    _ready(config)
    from raypose import runtime, search

    with runtime.connect(config.cluster, verbose=request.verbose):
        result = search.run(config)
    values = "  ".join(f"{key}={value}" for key, value in result.values.items())
    document = {
        "url": result.url,
        "recipe": result.recipe,
        "values": result.values,
        "score": result.score,
        "trials": result.trials,
    }
    text = f"best of {len(result.trials)}: {search.METRIC} {result.score:.4f}  {values}"
    _print(request, document, f"{text}\n{result.recipe}")


def _evaluate(request: Request) -> None:
    request, options = _parted(request, baselines=True)
    config = _config(request, None)
    from rich.console import Console

    from raypose import evaluate, registry, runtime
    from raypose.console import bar

    reference, url = request.words
    registry.resolve(config.storage, reference)  # before Ray starts
    with runtime.connect(config.cluster, verbose=request.verbose), bar("evaluating") as update:
        figures = evaluate.evaluate(
            config.storage, reference, url, beside=options["baselines"], progress=update
        )
    if request.json:
        print(json.dumps(figures, ensure_ascii=False))
    else:
        Console(soft_wrap=True).print(evaluate.table(figures))


def _compare(request: Request) -> None:
    config = _config(request, None)
    from rich.console import Console

    from raypose import evaluate, registry, runtime
    from raypose.console import bar

    a, b, url = request.words
    for reference in (a, b):
        registry.resolve(config.storage, reference)  # before Ray starts
    with runtime.connect(config.cluster, verbose=request.verbose), bar("scoring") as update:
        found = evaluate.compare(
            *(evaluate.score(config.storage, each, url, progress=update) for each in (a, b))
        )
    if request.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        Console(soft_wrap=True).print(evaluate.comparison_table(found))


def _report(request: Request) -> None:
    request, options = _parted(request, out="report.html", mistakes=24, baselines=True)
    config = _config(request, None)
    from raypose import evaluate, registry, report, runtime, storage, tracking
    from raypose.console import bar

    reference, url = request.words
    registry.resolve(config.storage, reference)  # before Ray starts
    with runtime.connect(config.cluster, verbose=request.verbose), bar("evaluating") as update:
        scored = evaluate.score(
            config.storage, reference, url, num_mistakes=options["mistakes"], progress=update
        )
        figures = evaluate.figures(scored, beside=options["baselines"], progress=update)
    run = storage.join(config.storage, "runs", scored.config.run_id, "metrics.jsonl")
    page = report.evaluation_page(figures, scored, tracking.read(run))
    storage.write_bytes(options["out"], page.encode())
    _print(request, {"page": options["out"], **figures}, options["out"])


def _few_shot(request: Request) -> None:
    defaults = {"per_class": [5, 10, 20, 50], "draws": 5, "steps": 100, "out": ""}
    request, options = _parted(request, methods=["probe"], classes=[], **defaults)
    config = _config(request, request.words[0])
    _ready(config)
    from raypose import fewshot, runtime, storage
    from raypose.console import bar

    with runtime.connect(config.cluster, verbose=request.verbose), bar("few-shot") as update:
        found = fewshot.run(
            config,
            per_class=options["per_class"],
            num_draws=options["draws"],
            num_steps=options["steps"],
            methods=options["methods"],
            classes=options["classes"],
            progress=update,
        )
    place = options["out"] or storage.join(config.storage, "few-shot", config.run_id)
    from raypose import report

    storage.write_json(storage.join(place, "draws.json"), found)
    storage.write_bytes(storage.join(place, "report.html"), report.few_shot_page(found).encode())
    lines = [
        f"{method:<6} {point['per_class']:>4} a class  top-1 {point['mean']:.3f} "
        f"± {point['sd']:.3f}  ({point['interval'][0]:.3f} to {point['interval'][1]:.3f})"
        for method, points in found["methods"].items()
        for point in points
    ]
    lines.append(f"zero-shot          top-1 {found['zero_shot']:.3f}  {found['note']}".rstrip())
    _print(request, {"url": place, **found}, "\n".join([*lines, place]))


def _publish(request: Request) -> None:
    config = _config(request, request.words[0])
    from raypose import evaluate

    release = evaluate.publish(config)
    _print(request, {"release": str(release), "url": release.url}, f"{release}\n{release.url}")


def _promote(request: Request) -> None:
    from raypose import registry

    root = _config(request, None).storage
    release = registry.promote(root, request.words[0])
    text = f"{release.name}@{registry.PRODUCTION} is {release.version}"
    _print(request, {"release": str(release), "alias": registry.PRODUCTION}, text)


def _rollback(request: Request) -> None:
    from raypose import registry

    release = registry.rollback(_config(request, None).storage, request.words[0])
    text = f"{release.name}@{registry.PRODUCTION} is {release.version} again"
    _print(request, {"release": str(release), "alias": registry.PRODUCTION}, text)


def _releases(request: Request) -> None:
    from raypose import registry

    found = registry.overview(_config(request, None).storage)
    lines = [
        f"{row['release']}{'  ← ' + ', '.join(row['aliases']) if row['aliases'] else ''}"
        for row in found
    ]
    _print(request, {"releases": found}, "\n".join(lines) or "nothing is published")


def _classify(request: Request) -> None:
    import tempfile

    from raypose import registry, storage

    root = _config(request, None).storage
    reference, *pictures = request.words
    release = registry.resolve(root, reference)
    from raypose.errors import DataError
    from raypose.predictor import Predictor

    with tempfile.TemporaryDirectory() as name:
        predictor = Predictor.load(registry.fetch(release, Path(name)))
    for picture in pictures:
        try:
            (ranked,) = predictor.predict([storage.read_bytes(picture)])
        except DataError as error:
            raise DataError(
                str(error) if picture in str(error) else f"{picture}: {error}"
            ) from None
        document = {"picture": picture, "release": str(release), "top": [asdict(p) for p in ranked]}
        _print(request, document, f"{picture}  {ranked[0].name}  {ranked[0].probability:.3f}")


def _serve(request: Request) -> None:
    config = _config(request, None)
    from raypose import registry

    registry.resolve(config.storage, request.words[0])  # before anything starts
    from raypose import runtime
    from serve import app

    with runtime.connect(config.cluster, verbose=request.verbose):
        with app.running(config, request.words[0]) as endpoint:
            document = {"url": endpoint.url, "release": endpoint.release}
            text = f"serving {endpoint.release} at {endpoint.url}/v1/classify; Ctrl-C stops it"
            _print(request, document, text)
            sys.stdout.flush()
            signal.pause()


def _demo(request: Request) -> None:
    from raypose import demo

    options = _options(request, folder="raypose-demo", per_class=450, epochs=20, trials=4)
    folder = Path(options.pop("folder"))
    demo.run(folder, **options, keep="--keep" in request.flags, verbose=request.verbose)


PAIRS = "[key=value…]"
COMMANDS = {
    "demo": Command(
        f"[--keep] {PAIRS}", "run the whole chain here, on pictures it draws", _demo, ("--keep",)
    ),
    "check": Command(f"RECIPE {PAIRS}", "print the resolved document of a recipe", _check),
    "taxonomy init": Command("FOLDER", "make class cards from folder names", _taxonomy_init),
    "taxonomy show": Command("TAXONOMY", "check a taxonomy and list its classes", _taxonomy_show),
    "taxonomy check": Command("TAXONOMY", "check a taxonomy, in one line", _taxonomy_check),
    "captions show": Command(
        f"GRAMMAR {PAIRS}", "print a grammar as text, json or templates", _captions_show
    ),
    "captions check": Command(
        f"GRAMMAR {PAIRS}", "prove a grammar on class cards", _captions_check
    ),
    "captions count": Command(f"GRAMMAR {PAIRS}", "count what a grammar can say", _captions_count),
    "captions sample": Command(
        f"GRAMMAR {PAIRS}", "draw captions as training does", _captions_sample
    ),
    "synthesize": Command(f"DEST {PAIRS}", "draw pictures of postures", _synthesize),
    "shards build": Command(
        f"SOURCE DEST {PAIRS}", "pack pictures of any source into shards", _shards_build
    ),
    "shards split": Command(
        f"DATA DEST {PAIRS}", "divide shards, near-duplicates on one side", _shards_split
    ),
    "shards dedupe": Command(
        f"DATA… {PAIRS}", "list near-duplicates within shards and between", _shards_dedupe
    ),
    "shards show": Command(f"DATA {PAIRS}", "make a page to look shards over", _shards_show),
    "shards verify": Command("DATA", "compare shards with their manifest", _shards_verify),
    "train": Command(f"RECIPE {PAIRS}", "train, from the last checkpoint on", _train),
    "search": Command(f"RECIPE {PAIRS}", "try recipes and write down the best", _search),
    "publish": Command(f"RECIPE {PAIRS}", "make a release of a finished run", _publish),
    "releases": Command(PAIRS, "list releases and their aliases", _releases),
    "promote": Command(f"RELEASE {PAIRS}", "point production at a release", _promote),
    "rollback": Command(f"NAME {PAIRS}", "point production back", _rollback),
    "evaluate": Command(f"RELEASE DATA {PAIRS}", "score a release on shards", _evaluate),
    "compare": Command(f"A B DATA {PAIRS}", "hold two releases against each other", _compare),
    "report": Command(f"RELEASE DATA {PAIRS}", "make a page of an evaluation", _report),
    "few-shot": Command(f"RECIPE {PAIRS}", "see how far few pictures a class go", _few_shot),
    "classify": Command(f"RELEASE PICTURE… {PAIRS}", "classify pictures here", _classify),
    "serve": Command(f"RELEASE {PAIRS}", "serve a release over HTTP", _serve),
}
