"""From a recipe to a run: `check`, `train`, `search`, `few-shot`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import yaml

from raypose.cli.request import PAIRS, Command, Request, recipe, show

__all__ = ["COMMANDS"]


def _check(request: Request) -> None:
    from raypose import captions, config
    from raypose.captions import taxonomy

    resolved = recipe(request, request.words[0])
    captions.check(captions.load(resolved.captions), taxonomy.load(resolved.data.taxonomy))
    document = config.dump(resolved)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    show(request, document, f"# {resolved.run_id}\n{text}".rstrip())


def _ready(config: Any) -> None:
    """Answer mistakes in what a recipe names before anything heavy is loaded."""
    from raypose.data import inputs

    inputs.load(config)


def _train(request: Request) -> None:
    config = recipe(request, request.words[0])
    _ready(config)
    from raypose import runtime, training

    with runtime.connect(config.cluster, verbose=request.verbose):
        result = training.train(config)
    figures = "  ".join(
        f"{key} {value:.4f}" for key, value in result.metrics.items() if isinstance(value, float)
    )
    text = f"{result.run_id}  best epoch {result.metrics['epoch']}  {figures}\n{result.checkpoint}"
    show(request, asdict(result), text)


def _search(request: Request) -> None:
    config = recipe(request, request.words[0])
    _ready(config)
    from raypose import runtime, tuning

    with runtime.connect(config.cluster, verbose=request.verbose):
        result = tuning.search(config)
    values = "  ".join(f"{key}={value}" for key, value in result.values.items())
    document = {
        "url": result.url,
        "recipe": result.recipe,
        "values": result.values,
        "score": result.score,
        "trials": result.trials,
    }
    text = f"best of {len(result.trials)}: {tuning.METRIC} {result.score:.4f}  {values}"
    show(request, document, f"{text}\n{result.recipe}")


def _few_shot(request: Request) -> None:
    config, options = recipe(request, request.words[0]), request.options
    _ready(config)
    from raypose import runtime, storage
    from raypose.console import bar
    from raypose.evaluation import fewshot

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
    url = options["out"] or storage.join(config.storage, "few-shot", config.run_id)
    from raypose.evaluation import report

    storage.write_json(storage.join(url, "draws.json"), found)
    storage.write_bytes(storage.join(url, "report.html"), report.few_shot_page(found).encode())
    lines = [
        f"{method:<6} {point['per_class']:>4} a class  top-1 {point['mean']:.3f} "
        f"± {point['sd']:.3f}  ({point['interval'][0]:.3f} to {point['interval'][1]:.3f})"
        for method, points in found["methods"].items()
        for point in points
    ]
    lines.append(f"zero-shot          top-1 {found['zero_shot']:.3f}  {found['note']}".rstrip())
    show(request, {"url": url, **found}, "\n".join([*lines, url]))


COMMANDS = {
    "check": Command(f"RECIPE {PAIRS}", "print the resolved document of a recipe", _check),
    "train": Command(f"RECIPE {PAIRS}", "train, from the last checkpoint on", _train),
    "search": Command(f"RECIPE {PAIRS}", "try recipes and write down the best", _search),
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
}
