"""Scored data sets → figures at every level of the tree, with baselines; two releases compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raypose import metrics
from raypose.captions.taxonomy import Taxonomy
from raypose.console import status
from raypose.errors import DataError, RayposeError
from raypose.evaluation.baselines import Baseline, baselines
from raypose.evaluation.scoring import Scored, score
from raypose.evaluation.verdict import verdict
from raypose.inference import pool
from raypose.inference.embedding import Progress
from raypose.releases import Model

__all__ = ["compare", "evaluate", "figures"]


def evaluate(
    root: str,
    reference: str | Model,
    url: str,
    *,
    with_baselines: bool = True,
    max_bad_fraction: float | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Score a release on a data set: see `score` and `figures`."""
    with pool.kept():
        return figures(
            score(root, reference, url, max_bad_fraction=max_bad_fraction, progress=progress),
            with_baselines=with_baselines,
            progress=progress,
        )


def figures(
    scored: Scored, *, with_baselines: bool = True, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Return all figures of a scored data set.

    Args:
        scored: by a release.
        with_baselines: score the model it came from too, by its captions and by a probe.
        progress: called while sets are read for it.

    Returns:
        release, data, note (that these pictures chose the release; empty where they did not), bad,
        num_bad, the figures of `metrics.summarize`, in `parents` those of
        `metrics.at_parents` for each level of the tree, nearest first, `tree_distances`, and in
        `baselines` the same figures without classes for ``zero_shot`` and ``probe``, each with a
        note; or only a note, why they are not there. In `verdict`, the line of `verdict.verdict`:
        empty where the release is worse than no baseline, or there is none.
    """
    classes = scored.classes
    levels = [classes.parents(level) for level in range(len(classes.levels))]
    guesses = scored.probabilities.argmax(axis=1)
    document = {
        "release": scored.release,
        "data": scored.url,
        "note": scored.note,
        "bad": dict(scored.bad),
        "num_bad": len(scored.bad),
        **_levels(scored.probabilities, scored.targets, classes),
        "tree_distances": metrics.tree_distances(scored.targets, guesses, levels),
        "verdict": "",
    }
    if not with_baselines:
        return document
    try:
        found = baselines(scored.config, classes, scored.url, progress=progress)
    except RayposeError as error:
        status(f"no baselines: {error}")
        return {**document, "baselines": {"note": str(error)}}
    beside = {name: _baseline(baseline, scored) for name, baseline in found.items()}
    line = verdict(document, beside, method=scored.config.optim.method)
    return {**document, "baselines": beside, "verdict": line}


def compare(a: Scored, b: Scored) -> dict[str, Any]:
    """Hold two releases against each other on the same pictures.

    Returns:
        a, b, data, note as `figures` has it, num_examples; figures: for each of `metrics.FIGURES`
        a, b, their difference and its 95 % interval; only_a and only_b, the pictures that one
        alone has right, and p, of McNemar's exact test.

    Raises:
        DataError: where they do not know the same classes, or read other pictures.
    """
    if a.classes.ids != b.classes.ids:
        raise DataError(f"{a.release} and {b.release} know other classes; nothing to compare")
    places = {name: row for row, name in enumerate(b.ids)}
    mine = [row for row, name in enumerate(a.ids) if name in places]
    theirs = [places[a.ids[row]] for row in mine]
    if not mine:
        raise DataError(f"{a.url}: no picture that both {a.release} and {b.release} can read")
    targets = a.targets[mine]
    ours, other = a.probabilities[mine], b.probabilities[theirs]
    right, rival = ours.argmax(1) == targets, other.argmax(1) == targets
    only_a, only_b = int((right & ~rival).sum()), int((rival & ~right).sum())
    return {
        "a": a.release,
        "b": b.release,
        "data": a.url,
        "note": "; ".join(dict.fromkeys(note for note in (a.note, b.note) if note)),
        "num_examples": len(mine),
        "figures": metrics.paired(ours, other, targets),
        "only_a": only_a,
        "only_b": only_b,
        "p": metrics.mcnemar(only_a, only_b),
    }


def _levels(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.int64], classes: Taxonomy
) -> dict[str, Any]:
    """Return the figures of classes, and in `parents` those of each level above."""
    above = [
        metrics.at_parents(probabilities, targets, classes.parents(level), names)
        for level, names in enumerate(classes.levels)
    ]
    return {**metrics.summarize(probabilities, targets, classes.ids), "parents": above}


def _baseline(baseline: Baseline, scored: Scored) -> dict[str, Any]:
    """Return a baseline's figures on the pictures that the release could read."""
    rows = [baseline.ids[name] for name in scored.ids]
    found = _levels(baseline.probabilities[rows], scored.targets, scored.classes)
    keep = ("num_examples", "num_classes", "intervals", *metrics.FIGURES)
    short = {name: found[name] for name in keep}
    parents = [{name: level[name] for name in keep} for level in found["parents"]]
    return {"note": baseline.note, **short, "parents": parents}
