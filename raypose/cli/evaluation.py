"""Figures: `evaluate`, `compare`, `report`."""

from __future__ import annotations

from raypose.cli.request import PAIRS, Command, Request, recipe, show

__all__ = ["COMMANDS"]


def _evaluate(request: Request) -> None:
    config = recipe(request, None)
    from raypose import evaluation, runtime
    from raypose.console import bar
    from raypose.releases import registry

    reference, url = request.words
    registry.resolve(config.storage, reference)  # before Ray starts
    with runtime.connect(config.cluster, verbose=request.verbose), bar("evaluating") as update:
        figures = evaluation.evaluate(
            config.storage,
            reference,
            url,
            with_baselines=request.options["baselines"],
            progress=update,
        )
    show(request, figures, evaluation.table(figures))


def _compare(request: Request) -> None:
    config = recipe(request, None)
    from raypose import evaluation, runtime
    from raypose.console import bar
    from raypose.releases import registry

    a, b, url = request.words
    for reference in (a, b):
        registry.resolve(config.storage, reference)  # before Ray starts
    with runtime.connect(config.cluster, verbose=request.verbose), bar("scoring") as update:
        found = evaluation.compare(
            *(evaluation.score(config.storage, each, url, progress=update) for each in (a, b))
        )
    show(request, found, evaluation.comparison_table(found))


def _report(request: Request) -> None:
    config, options = recipe(request, None), request.options
    from raypose import evaluation, runtime, storage, training
    from raypose.console import bar
    from raypose.evaluation import report
    from raypose.releases import registry
    from raypose.training import tracking

    reference, url = request.words
    registry.resolve(config.storage, reference)  # before Ray starts
    with runtime.connect(config.cluster, verbose=request.verbose), bar("evaluating") as update:
        scored = evaluation.score(
            config.storage, reference, url, num_mistakes=options["mistakes"], progress=update
        )
        figures = evaluation.figures(scored, with_baselines=options["baselines"], progress=update)
    run = storage.join(training.locate(scored.config, root=config.storage).url, "metrics.jsonl")
    page = report.evaluation_page(figures, scored, tracking.read(run))
    storage.write_bytes(options["out"], page.encode())
    show(request, {"page": options["out"], **figures}, options["out"])


COMMANDS = {
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
}
