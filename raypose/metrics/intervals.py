"""Figures with their 95 % intervals, of one model and of two on the same pictures.

Shares of all pictures have Wilson's interval, which is none of one point where all are right. The
balanced accuracy has that of its recalls' posterior, and so has the difference of two. Other
intervals are percentiles of the bootstrap: each figure is computed anew from pictures drawn with
replacement. The calibration error has none: it is biased upwards, the more so in draws with
repeats. All speak of the draw of test pictures, not of the draw of a training run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raypose.metrics.figures import (
    FIGURES,
    NUM_BINS,
    Counts,
    Floats,
    Scored,
    confusion_matrix,
    of_parents,
    per_class,
)

__all__ = [
    "at_parents",
    "balanced_hits",
    "mcnemar",
    "of_difference",
    "of_mean",
    "of_recalls",
    "paired",
    "paired_runs",
    "summarize",
    "wilson",
]

MAX_DRAWS = 1000


MAX_DRAWN_ROWS = 20_000_000


LEVEL = 0.95


def summarize(
    probabilities: Floats, targets: Counts, labels: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Return all figures of a scored data set.

    Args:
        probabilities: (N, C), N at least 1.
        targets: (N,), class numbers.
        labels: C class ids.
        seed: of the draws for the intervals.

    Returns:
        num_examples; top1, top5, balanced_accuracy, macro_f1, nll (nats), ece (15 bins of equal
        width) and aurc (mean risk over all coverages); intervals of these but ece, name → [low,
        high], at 95 %; per_class; confusion (nested lists, rows true); reliability, for each bin
        that has pictures [confidence, accuracy, count]; risk_coverage, [coverage, risk] at 20
        coverages.

    Source: Guo et al., 2017, equation 3 (ECE); Geifman and El-Yaniv, 2017 (risk and coverage);
    Wilson, 1927; Brodersen et al., 2010 (posterior of the balanced accuracy).
    """
    scored = Scored.of(probabilities, targets)
    ones = np.ones(len(targets))
    confusion = confusion_matrix(targets, scored.predicted, num_classes=len(labels))
    return {
        "num_examples": len(targets),
        "num_classes": len(labels),
        **scored.figures(ones),
        "intervals": _intervals(scored, seed=seed),
        "labels": list(labels),
        "per_class": per_class(confusion, labels),
        "confusion": confusion.tolist(),
        "reliability": _reliability(scored),
        "risk_coverage": _risk_coverage(scored),
    }


def at_parents(
    probabilities: Floats, targets: Counts, parents: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """Score a level of the tree: a parent's probability is the sum of its classes'.

    Args:
        probabilities: (N, C).
        targets: (N,), class numbers.
        parents: of each of the C classes, numbered from 0.
        names: of the parents.

    Returns:
        As `summarize`, for the parents.
    """
    summed = of_parents(probabilities, parents, len(names))
    return summarize(summed, np.asarray(parents)[targets], names)


def paired(
    ours: Floats, theirs: Floats, targets: Counts, *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Compare two models on the same pictures.

    Args:
        ours: probabilities (N, C).
        theirs: probabilities (N, C).
        targets: (N,), class numbers.
        seed: of the draws.

    Returns:
        For each figure ours, theirs, difference, and the 95 % interval of the difference, from
        bootstrap draws of pictures that both are scored on.
    """
    a, b = Scored.of(ours, targets), Scored.of(theirs, targets)
    ones = np.ones(len(targets))
    first, second = a.figures(ones), b.figures(ones)
    draws: dict[str, list[float]] = {name: [] for name in FIGURES}
    for weights in _draws(len(targets), seed=seed):
        one, other = a.figures(weights), b.figures(weights)
        for name, values in draws.items():
            values.append(one[name] - other[name])
    return {
        name: {
            "a": first[name],
            "b": second[name],
            "difference": first[name] - second[name],
            "interval": _percentiles(values),
        }
        for name, values in draws.items()
    }


def balanced_hits(
    hits: npt.NDArray[Any], targets: Counts, weights: npt.NDArray[Any] | None = None
) -> float:
    """Return the balanced accuracy of hits (N,), each in 0..1, on pictures that may be weighted.

    Args:
        hits: whether a picture is right, or how often.
        targets: (N,), class numbers.
        weights: (N,), of the pictures; by default 1.
    """
    share = 1.0 / np.bincount(targets)[targets]
    share = share if weights is None else share * weights
    return float((hits * share).sum() / share.sum())


def paired_runs(
    ours: npt.NDArray[np.bool_],
    theirs: npt.NDArray[np.bool_],
    targets: Counts,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two recipes, each trained several times, on the same pictures.

    Args:
        ours: hits (S, N), a row for each seed.
        theirs: hits (T, N).
        targets: (N,), class numbers.
        seed: of the draws.

    Returns:
        difference of the mean balanced accuracies; its 95 % interval, and p, that there is none,
        from bootstrap draws of pictures and of seeds.
    """
    rng = np.random.default_rng(seed)
    found = balanced_hits(ours.mean(0), targets) - balanced_hits(theirs.mean(0), targets)
    draws = []
    for weights in _draws(len(targets), seed=seed):
        a, b = (hits[rng.integers(len(hits), size=len(hits))].mean(0) for hits in (ours, theirs))
        draws.append(balanced_hits(a, targets, weights) - balanced_hits(b, targets, weights))
    below, above = np.mean(np.array(draws) <= 0), np.mean(np.array(draws) >= 0)
    p = min(1.0, 2 * float(min(below, above)))
    return {
        "difference": found,
        "interval": _percentiles(draws),
        "p": max(p, 1.0 / len(draws)),
    }


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """Return the two-sided p of McNemar's exact test: that both are right equally often.

    Args:
        only_ours: pictures that we alone have right.
        only_theirs: pictures that they alone have right.
    """
    from scipy.stats import binomtest  # slow to import, and training does not need it

    total = only_ours + only_theirs
    return float(binomtest(only_ours, total).pvalue) if total else 1.0


def _draws(num_rows: int, *, seed: int) -> Iterator[Floats]:
    """Yield how often each row comes in draws with replacement: fewer draws of large sets."""
    num_draws = int(np.clip(MAX_DRAWN_ROWS // num_rows, 100, MAX_DRAWS))
    rng = np.random.default_rng(seed)
    for _ in range(num_draws):
        rows = rng.integers(0, num_rows, num_rows)
        yield np.bincount(rows, minlength=num_rows).astype(np.float64)


def _intervals(scored: Scored, *, seed: int) -> dict[str, list[float]]:
    draws = [scored.figures(weights) for weights in _draws(len(scored.targets), seed=seed)]
    found = {
        name: _percentiles([draw[name] for draw in draws]) for name in ("macro_f1", "nll", "aurc")
    }
    total = len(scored.targets)
    found["top1"] = wilson(int(scored.hit1.sum()), total)
    found["top5"] = wilson(int(scored.hit5.sum()), total)
    found["balanced_accuracy"] = of_recalls(scored.hit1, scored.targets, seed=seed)
    if scored.hit1.all():  # draws of pictures that are all right say nothing
        found["macro_f1"] = [found["balanced_accuracy"][0], 1.0]
    return found


def wilson(hits: int, total: int) -> list[float]:
    """Return the 95 % interval of a share: hits among pictures."""
    from scipy.stats import binomtest  # slow to import, and training does not need it

    found = binomtest(hits, total).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]


def of_mean(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and sd of two values or more, and the mean's 95 % interval (Student's t)."""
    from scipy.stats import t as student

    mean, sd = statistics.fmean(values), statistics.stdev(values)
    tail = (1 + LEVEL) / 2
    reach = float(student.ppf(tail, len(values) - 1)) * sd / math.sqrt(len(values))
    return {"mean": mean, "sd": sd, "interval": [mean - reach, mean + reach]}


def of_recalls(hit: Floats, targets: Counts, *, seed: int = 0) -> list[float]:
    """Return the 95 % interval of the balanced accuracy: each recall is drawn from its posterior.

    Args:
        hit: (N,), 1 where the picture's class is told right, else 0.
        targets: (N,), class numbers.
        seed: of the draws.
    """
    held = np.bincount(targets)
    hits = np.bincount(targets, weights=hit)
    seen = held > 0
    rng = np.random.default_rng(seed)
    right, wrong = hits[seen] + 0.5, (held - hits)[seen] + 0.5  # Jeffreys' prior
    low, high = _percentiles(rng.beta(right, wrong, size=(MAX_DRAWS, len(right))).mean(axis=1))
    found = float((hits[seen] / held[seen]).mean())
    return [min(low, found), max(high, found)]


def of_difference(
    ours: Floats, theirs: Floats, targets: Counts, *, seed: int = 0
) -> dict[str, Any]:
    """Hold the balanced accuracies of two against each other on the same pictures.

    The shares of each class that one alone has right, the other alone, or neither alone, are drawn
    from their posterior: two that agree on few pictures are not known to be alike.

    Args:
        ours: (N,), 1 where we are right, else 0.
        theirs: (N,), the same of the other.
        targets: (N,), class numbers.
        seed: of the draws.

    Returns:
        The difference, ours less theirs, and its 95 % interval.
    """
    held = np.bincount(targets)
    seen = held > 0
    only_ours, only_theirs = (
        np.bincount(targets, weights=one * (1 - other))[seen]
        for one, other in ((ours, theirs), (theirs, ours))
    )
    counts = np.stack([only_ours, only_theirs, held[seen] - only_ours - only_theirs], axis=1)
    rng = np.random.default_rng(seed)
    drawn = rng.standard_gamma(counts + 0.5, size=(MAX_DRAWS, *counts.shape))  # Jeffreys' prior
    shares = drawn / drawn.sum(axis=2, keepdims=True)
    low, high = _percentiles((shares[..., 0] - shares[..., 1]).mean(axis=1))
    found = float(((only_ours - only_theirs) / held[seen]).mean())
    return {"difference": found, "interval": [min(low, found), max(high, found)]}


def _percentiles(values: Sequence[float] | Floats) -> list[float]:
    tail = 100 * (1 - LEVEL) / 2
    return [float(value) for value in np.percentile(values, [tail, 100 - tail])]


def _reliability(scored: Scored) -> list[list[float]]:
    rows = []
    for number in range(NUM_BINS):
        inside = scored.bins == number
        if inside.any():
            confidence, accuracy = scored.confidence[inside].mean(), scored.hit1[inside].mean()
            rows.append([float(confidence), float(accuracy), int(inside.sum())])
    return rows


def _risk_coverage(scored: Scored) -> list[list[float]]:
    total = len(scored.targets)
    _, risk, _ = scored.risks(np.ones(total))
    ends = np.unique(np.ceil(np.linspace(0.05, 1, 20) * total).astype(np.int64))
    return [[float(end / total), float(risk[end - 1])] for end in ends]
