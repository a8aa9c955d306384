"""The command line: ``raypose VERB … key=value``. It parses first and imports heavy things later.

Progress and errors go to stderr, results to stdout; ``--json`` prints them for machines. A user's
mistake is one line and an exit code, never a traceback unless ``--verbose`` asks for it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from raypose import preparation as prep
from raypose.errors import RayposeError, UsageError, did_you_mean
from raypose.request import Command, Request, options_of, parse, recipe, show

__all__ = ["main"]

MISSING = dict.fromkeys(("matplotlib", "open_clip", "optuna", "ray", "torch"), "train")
MISSING |= {"peft": "lora"}
MISSING |= {"fastapi": "serve", "moto": "demo", "boto3": "demo", "httpx": "demo"}


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
        print("interrupted", file=sys.stderr, flush=True)
        if argv is None:  # a thread within Ray, left behind, may crash an interpreter that ends
            os._exit(130)
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
        own = "".join(f"\n  {key}={json.dumps(value)}" for key, value in command.options.items())
        print(f"{usage}\n\n{command.summary}")
        if own:
            print(f"\nits own keys, beside those of a recipe:{own}")
        return
    unknown = flags - {"--json", "--verbose", *command.flags}
    if unknown:
        raise UsageError(f"{name}: unknown option {min(unknown)}; {usage}")
    command.run(parse(name, command, words[len(name.split()) :], flags))


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


def _check(request: Request) -> None:
    from raypose import captions, config, taxonomy

    resolved = recipe(request, request.words[0])
    captions.check(captions.load(resolved.captions), taxonomy.load(resolved.data.taxonomy))
    document = config.dump(resolved)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    show(request, document, f"# {resolved.run_id}\n{text}".rstrip())


def _ready(config: Any) -> None:
    """Answer mistakes in what a recipe names before anything heavy is loaded."""
    from raypose import inputs

    inputs.load(config)


def _train(request: Request) -> None:
    config = recipe(request, request.words[0])
    _ready(config)
    from raypose import runtime, train

    with runtime.connect(config.cluster, verbose=request.verbose):
        result = train.run(config)
    figures = "  ".join(
        f"{key} {value:.4f}" for key, value in result.metrics.items() if isinstance(value, float)
    )
    text = f"{result.run_id}  best epoch {result.metrics['epoch']}  {figures}\n{result.checkpoint}"
    show(request, asdict(result), text)


def _search(request: Request) -> None:
    config = recipe(request, request.words[0])
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
    show(request, document, f"{text}\n{result.recipe}")


def _evaluate(request: Request) -> None:
    config = recipe(request, None)
    from raypose import evaluate, registry, runtime
    from raypose.console import bar

    reference, url = request.words
    registry.resolve(config.storage, reference)  # before Ray starts
    with runtime.connect(config.cluster, verbose=request.verbose), bar("evaluating") as update:
        figures = evaluate.evaluate(
            config.storage, reference, url, beside=request.options["baselines"], progress=update
        )
    show(request, figures, evaluate.table(figures))


def _compare(request: Request) -> None:
    config = recipe(request, None)
    from raypose import evaluate, registry, runtime
    from raypose.console import bar

    a, b, url = request.words
    for reference in (a, b):
        registry.resolve(config.storage, reference)  # before Ray starts
    with runtime.connect(config.cluster, verbose=request.verbose), bar("scoring") as update:
        found = evaluate.compare(
            *(evaluate.score(config.storage, each, url, progress=update) for each in (a, b))
        )
    show(request, found, evaluate.comparison_table(found))


def _report(request: Request) -> None:
    config, options = recipe(request, None), request.options
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
    show(request, {"page": options["out"], **figures}, options["out"])


def _few_shot(request: Request) -> None:
    config, options = recipe(request, request.words[0]), request.options
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
    show(request, {"url": place, **found}, "\n".join([*lines, place]))


def _publish(request: Request) -> None:
    config = recipe(request, request.words[0])
    from raypose import evaluate

    release = evaluate.publish(config)
    show(request, {"release": str(release), "url": release.url}, f"{release}\n{release.url}")


def _promote(request: Request) -> None:
    from raypose import registry

    root = recipe(request, None).storage
    release = registry.promote(root, request.words[0])
    text = f"{release.name}@{registry.PRODUCTION} is {release.version}"
    show(request, {"release": str(release), "alias": registry.PRODUCTION}, text)


def _rollback(request: Request) -> None:
    from raypose import registry

    release = registry.rollback(recipe(request, None).storage, request.words[0])
    text = f"{release.name}@{registry.PRODUCTION} is {release.version} again"
    show(request, {"release": str(release), "alias": registry.PRODUCTION}, text)


def _releases(request: Request) -> None:
    from raypose import registry

    found = registry.overview(recipe(request, None).storage)
    lines = [
        f"{row['release']}{'  ← ' + ', '.join(row['aliases']) if row['aliases'] else ''}"
        for row in found
    ]
    show(request, {"releases": found}, "\n".join(lines) or "nothing is published")


def _classify(request: Request) -> None:
    import tempfile

    from raypose import registry, storage

    root = recipe(request, None).storage
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
        show(request, document, f"{picture}  {ranked[0].name}  {ranked[0].probability:.3f}")


def _serve(request: Request) -> None:
    config = recipe(request, None)
    from raypose import registry

    registry.resolve(config.storage, request.words[0])  # before anything starts
    from raypose import runtime
    from serve import app

    with runtime.connect(config.cluster, verbose=request.verbose):
        with app.running(config, request.words[0]) as endpoint:
            document = {"url": endpoint.url, "release": endpoint.release}
            text = f"serving {endpoint.release} at {endpoint.url}/v1/classify; Ctrl-C stops it"
            show(request, document, text)
            sys.stdout.flush()
            signal.pause()


def _demo(request: Request) -> None:
    from raypose import demo

    options = options_of(request, folder="raypose-demo", per_class=450, epochs=20, trials=4)
    folder = Path(options.pop("folder"))
    demo.run(folder, **options, keep="--keep" in request.flags, verbose=request.verbose)


PAIRS = "[key=value…]"
COMMANDS = {
    "demo": Command(
        f"[--keep] {PAIRS}", "run the whole chain here, on pictures it draws", _demo, ("--keep",)
    ),
    "check": Command(f"RECIPE {PAIRS}", "print the resolved document of a recipe", _check),
    "taxonomy init": Command("FOLDER", "make class cards from folder names", prep.taxonomy_init),
    "taxonomy show": Command(
        "TAXONOMY", "check a taxonomy and list its classes", prep.taxonomy_show
    ),
    "taxonomy check": Command("TAXONOMY", "check a taxonomy, in one line", prep.taxonomy_check),
    "captions show": Command(
        f"GRAMMAR {PAIRS}", "print a grammar as text, json or templates", prep.captions_show
    ),
    "captions check": Command(
        f"GRAMMAR {PAIRS}", "prove a grammar on class cards", prep.captions_check
    ),
    "captions count": Command(
        f"GRAMMAR {PAIRS}", "count what a grammar can say", prep.captions_count
    ),
    "captions sample": Command(
        f"GRAMMAR {PAIRS}", "draw captions as training does", prep.captions_sample
    ),
    "synthesize": Command(f"DEST {PAIRS}", "draw pictures of postures", prep.synthesize),
    "shards build": Command(
        f"SOURCE DEST {PAIRS}", "pack pictures of any source into shards", prep.shards_build
    ),
    "shards split": Command(
        f"DATA DEST {PAIRS}", "divide shards, near-duplicates on one side", prep.shards_split
    ),
    "shards dedupe": Command(
        f"DATA… {PAIRS}",
        "list near-duplicates within shards and between",
        prep.shards_dedupe,
    ),
    "shards show": Command(f"DATA {PAIRS}", "make a page to look shards over", prep.shards_show),
    "shards verify": Command("DATA", "compare shards with their manifest", prep.shards_verify),
    "train": Command(f"RECIPE {PAIRS}", "train, from the last checkpoint on", _train),
    "search": Command(f"RECIPE {PAIRS}", "try recipes and write down the best", _search),
    "publish": Command(f"RECIPE {PAIRS}", "make a release of a finished run", _publish),
    "releases": Command(PAIRS, "list releases and their aliases", _releases),
    "promote": Command(f"RELEASE {PAIRS}", "point production at a release", _promote),
    "rollback": Command(f"NAME {PAIRS}", "point production back", _rollback),
    "evaluate": Command(
        f"RELEASE DATA {PAIRS}",
        "score a release on shards",
        _evaluate,
        options={"baselines": True},
    ),
    "compare": Command(f"A B DATA {PAIRS}", "hold two releases against each other", _compare),
    "report": Command(
        f"RELEASE DATA {PAIRS}",
        "make a page of an evaluation",
        _report,
        options={"out": "report.html", "mistakes": 24, "baselines": True},
    ),
    "few-shot": Command(
        f"RECIPE {PAIRS}",
        "see how far few pictures a class go",
        _few_shot,
        options={
            "per_class": [5, 10, 20, 50],
            "draws": 5,
            "steps": 100,
            "methods": ["probe"],
            "classes": [],
            "out": "",
        },
    ),
    "classify": Command(f"RELEASE PICTURE… {PAIRS}", "classify pictures here", _classify),
    "serve": Command(f"RELEASE {PAIRS}", "serve a release over HTTP", _serve),
}
