"""The end of a search: its best over several seeds, beside the recipe as it was and plain captions.

The best of many trials is lucky as well as good. So the first few are trained anew with seeds of
their own, and compared picture by picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raypose import config, metrics, storage
from raypose.captions import taxonomy
from raypose.config import Config, document_hash
from raypose.console import plural, status
from raypose.data import inputs
from raypose.data.inputs import GRAMMAR
from raypose.evaluation import verdict
from raypose.inference import pool
from raypose.training import runs
from raypose.tuning.course import Course, point_of
from raypose.tuning.points import Point
from raypose.tuning.records import Entry, Finals, Paired, Records, Trial

__all__ = ["FINALS", "hold"]

FINALS = "finals"
"""Folder of their records."""
CONTROL = "a photo of a <name>."
DEFAULT, CAPTIONS = "default", "control captions"


@dataclass(frozen=True)
class Tried:
    """What is trained with several seeds.

    Attributes:
        label: what it is called.
        number: of its trial; None where it was none.
        values: dotted key → value.
    """

    label: str
    number: int | None
    values: Mapping[str, Any]


def hold(
    recipe: Config, ranked: Sequence[Trial], url: str, run: Callable[[Config, Course], None]
) -> Finals:
    """Train the best of a search with several seeds and compare them.

    Args:
        recipe: of the search.
        ranked: its trials that have a score, the best first.
        url: of the search.
        run: makes the trials of a course.
    """
    entries = _entries(recipe, ranked)
    seeds = [recipe.seed + k for k in range(recipe.search.final_seeds)]
    given = [Point({**entry.values, "seed": s}) for entry in entries for s in seeds]
    changes = {
        "num_trials": len(given), "reduction_factor": 0, "max_hours": None, "stop_at": None,
    }  # fmt: skip
    plain = config.override(recipe, {f"search.{key}": value for key, value in changes.items()})
    digits = document_hash([point.values for point in given])[:8]  # others with more trials
    place = storage.join(url, FINALS, digits)
    course = Course(plain, Records(place), url=url, given=given)
    if course.num_left:
        what = ", ".join(entry.label for entry in entries)
        status(f"finals: {what}, {plural(len(seeds), 'seed')} each")
        run(plain, course)
    scores = _scores(course, entries, len(seeds))
    data = recipe.data.test or recipe.data.val
    hits, targets = _hits(plain, [e for e in entries if e.label in scores], seeds, url, data)
    compared = _compared(entries, hits, targets)
    return Finals(
        seeds=seeds,
        data=data,
        chose=not recipe.data.test,
        num_trials=recipe.search.num_trials,
        entries=[
            _entry(entry, scores[entry.label], hits[entry.label], targets)
            for entry in entries
            if entry.label in hits
        ],
        paired=compared,
        sentences=[_sentence(one, len(targets), len(seeds)) for one in compared],
    )


def _entry(
    tried: Tried,
    val_scores: list[float],
    hits: npt.NDArray[np.bool_],
    targets: npt.NDArray[np.int64],
) -> Entry:
    scores = [metrics.balanced_hits(row, targets) for row in hits]
    of = metrics.of_mean(scores)
    low, high = of["interval"]
    return Entry(
        label=tried.label,
        number=tried.number,
        values=dict(tried.values),
        val_scores=val_scores,
        scores=scores,
        mean=of["mean"],
        sd=of["sd"],
        interval=(max(0.0, low), min(1.0, high)),
    )


def _entries(recipe: Config, ranked: Sequence[Trial]) -> list[Tried]:
    """Return the finalists, the recipe as it was, and the best with plain captions: each once."""
    finalists = [
        Tried(f"trial {trial.number}", trial.number, trial.values)
        for trial in ranked[: recipe.search.finalists]
    ]
    entries = [*finalists, Tried(DEFAULT, None, {})]
    if any(key.startswith("captions.") for key in inputs.searched_keys(recipe)):
        plain = {k: v for k, v in finalists[0].values.items() if not k.startswith("captions.")}
        entries.append(Tried(CAPTIONS, None, {**plain, GRAMMAR: CONTROL}))
    found: dict[str, Tried] = {}
    for entry in entries:  # of two that are one run, the first
        found.setdefault(point_of(recipe, {**entry.values, "seed": 0}, "").run_id, entry)
    return list(found.values())


def _scores(course: Course, entries: Sequence[Tried], num_seeds: int) -> dict[str, list[float]]:
    """Return label → score of each seed; what failed with one of them is left out."""
    found = {}
    for k, entry in enumerate(entries):
        numbers = range(k * num_seeds, (k + 1) * num_seeds)
        trials = [course.records.trials.get(number) for number in numbers]
        scores = [trial.score for trial in trials if trial is not None and trial.score is not None]
        if len(scores) == num_seeds:
            found[entry.label] = scores
    return found


def _hits(
    recipe: Config, entries: Sequence[Tried], seeds: Sequence[int], url: str, data: str
) -> tuple[dict[str, npt.NDArray[np.bool_]], npt.NDArray[np.int64]]:
    """Return label → hits (S, N) on a data set, and the classes of its pictures (N,)."""
    classes = taxonomy.load(recipe.data.taxonomy)
    found: dict[str, npt.NDArray[np.bool_]] = {}
    targets = np.zeros(0, dtype=np.int64)
    with pool.kept():
        for entry in entries:
            rows = []
            for seed in seeds:
                point = point_of(recipe, {**entry.values, "seed": seed}, url)
                result = runs.finished(point)
                if result is None:
                    break
                seen = verdict.answers(point, result, data, classes)
                rows.append((seen.probabilities.argmax(1) == seen.targets)[seen.good])
                targets = seen.targets[seen.good]
            if len(rows) == len(seeds):
                found[entry.label] = np.stack(rows)
    return found, targets


def _compared(
    entries: Sequence[Tried],
    hits: Mapping[str, npt.NDArray[np.bool_]],
    targets: npt.NDArray[np.int64],
) -> list[Paired]:
    """Compare the first with the recipe as it was, and with plain captions."""
    first = next((entry.label for entry in entries if entry.label in hits), "")
    found = []
    for other in (DEFAULT, CAPTIONS):
        if first in hits and other in hits and first != other:
            of = metrics.paired_runs(hits[first], hits[other], targets)
            found.append(Paired(label=f"{first} against {other}", ours=first, theirs=other, **of))
    return found


def _sentence(compared: Paired, num_pictures: int, num_seeds: int) -> str:
    """Return what may be concluded from one comparison."""
    low, high = compared.interval
    figures = (
        f"{compared.difference:+.3f} ({low:+.3f} to {high:+.3f}), p {compared.p:.3f}, "
        f"on {plural(num_pictures, 'picture')}, {plural(num_seeds, 'seed')} each"
    )
    ours, captions = compared.ours, compared.theirs == CAPTIONS
    if low <= 0 <= high:
        what = "captions make no difference" if captions else f"{ours} is no better than the recipe"
        return f"{what} that these pictures can show: {figures}"
    better = "better" if compared.difference > 0 else "worse"
    if captions:
        return f"captions matter: those of {ours} are {better} than {CONTROL!r}: {figures}"
    return f"{ours} is {better} than the recipe as it was: {figures}"
