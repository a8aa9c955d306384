"""Figures: `evaluate`, `compare`, `report`."""

from __future__ import annotations

import shlex
from typing import Annotated

from pydantic import Field

from raypose.cli.places import check_out, looked_up
from raypose.cli.shards import DATA
from raypose.cli.verbs import Call, Keys, Verb, Word
from raypose.config.section import Fraction
from raypose.console import bar, waiting

__all__ = ["RELEASE", "VERBS"]

RELEASE = Word("RELEASE", "NAME, NAME@ALIAS, NAME:VERSION, a folder, or an s3:// place")
SECTIONS = ("storage", "cluster")


class ToleranceKeys(Keys):
    """What is put up with."""

    max_bad_fraction: Fraction | None = None
    """Share of pictures that may be bad; by default what the release was trained with."""


class EvaluateKeys(ToleranceKeys):
    """What is scored beside the release."""

    baselines: bool = True
    """Score the model it came from too, by its captions and by a probe."""


class ReportKeys(EvaluateKeys):
    """What the page holds."""

    out: str = "report.html"
    """Where to write it."""
    mistakes: Annotated[int, Field(ge=0)] = 24
    """Pictures that were taken for something else."""


def evaluate(call: Call) -> None:
    """Score a release on shards."""
    from raypose.data import manifests

    config = call.config()

    reference, url = call.words
    looked_up(config.storage, reference)  # before Ray starts
    manifests.read_manifest(url)
    with waiting("loading torch and Ray"):
        from raypose import runtime
        from raypose.evaluation import summary, tables

    with runtime.connect(config.cluster, verbose=call.verbose), bar("evaluating") as update:
        figures = summary.evaluate(
            config.storage,
            reference,
            url,
            with_baselines=call.keys.baselines,
            max_bad_fraction=call.keys.max_bad_fraction,
            progress=update,
        )
    call.show(figures, tables.table(figures))
    call.next(f"raypose report {shlex.join((reference, url))}{call.at(config)}")


def compare(call: Call) -> None:
    """Hold two releases against each other."""
    from raypose.data import manifests

    config = call.config()

    a, b, url = call.words
    for reference in (a, b):
        looked_up(config.storage, reference)  # before Ray starts
    manifests.read_manifest(url)
    with waiting("loading torch and Ray"):
        from raypose import runtime
        from raypose.evaluation import scoring, summary, tables
        from raypose.inference import pool

    connected = runtime.connect(config.cluster, verbose=call.verbose)
    with connected, pool.kept(), bar("scoring") as update:
        found = summary.compare(
            *(
                scoring.score(
                    config.storage,
                    each,
                    url,
                    max_bad_fraction=call.keys.max_bad_fraction,
                    progress=update,
                )
                for each in (a, b)
            )
        )
    call.show(found, tables.comparison_table(found))


def report(call: Call) -> None:
    """Make a page of an evaluation."""
    from raypose.data import manifests

    config, keys = call.config(), call.keys
    check_out(keys.out)

    reference, url = call.words
    looked_up(config.storage, reference)  # before Ray starts
    manifests.read_manifest(url)
    with waiting("loading torch and Ray"):
        from raypose import runtime, storage
        from raypose.evaluation import report as pages
        from raypose.evaluation import scoring, summary
        from raypose.inference import pool
        from raypose.training import runs, tracking

    connected = runtime.connect(config.cluster, verbose=call.verbose)
    with connected, pool.kept(), bar("evaluating") as update:
        scored = scoring.score(
            config.storage,
            reference,
            url,
            num_mistakes=keys.mistakes,
            max_bad_fraction=keys.max_bad_fraction,
            progress=update,
        )
        figures = summary.figures(scored, with_baselines=keys.baselines, progress=update)
    run = storage.join(runs.locate(scored.config, root=config.storage).url, tracking.FILE)
    page = pages.evaluation_page(figures, scored, tracking.read(run))
    storage.write_bytes(keys.out, page.encode())
    call.show({"page": keys.out, **figures}, keys.out)


VERBS = (
    Verb(
        "evaluate",
        (RELEASE, DATA),
        "score a release on shards",
        evaluate,
        ("raypose evaluate postures shards/val", "raypose evaluate ./release shards/val"),
        EvaluateKeys,
        SECTIONS,
        as_job=True,
    ),
    Verb(
        "compare",
        (Word("A", "a release"), Word("B", "another"), DATA),
        "hold two releases against each other",
        compare,
        ("raypose compare postures:v2 postures:v1 shards/val",),
        ToleranceKeys,
        SECTIONS,
        as_job=True,
    ),
    Verb(
        "report",
        (RELEASE, DATA),
        "make a page of an evaluation",
        report,
        ("raypose report postures shards/val out=report.html",),
        ReportKeys,
        SECTIONS,
    ),
)
