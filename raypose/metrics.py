"""Figures of merit with their intervals, checked in the tests against scikit-learn.

Intervals are percentiles of the bootstrap over pictures: each figure is computed anew from pictures
drawn with replacement. They speak of the draw of test pictures, not of the draw of a training run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "FIGURES",
    "Counts",
    "at_parents",
    "balanced_accuracy",
    "confusion_matrix",
    "macro_f1",
    "mcnemar",
    "nll",
    "paired",
    "per_class",
    "summarize",
    "top_k_hits",
    "tree_distances",
]

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]
FIGURES = ("top1", "top5", "balanced_accuracy", "macro_f1", "nll", "ece", "aurc")
"""What has an interval, in the order of tables."""
NUM_BINS = 15
MAX_DRAWS = 1000
MAX_DRAWN_ROWS = 20_000_000
LEVEL = 0.95


def confusion_matrix(targets: Counts, predicted: Counts, *, num_classes: int) -> Counts:
    """Count pictures by (true class, predicted class): int64 (C, C)."""
    cells = targets * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(confusion: npt.NDArray[Any]) -> float:
    """Return the mean recall over the classes that occur, in 0..1; 0 where none does."""
    support = confusion.sum(axis=1)
    seen = support > 0
    return float((confusion.diagonal()[seen] / support[seen]).mean()) if seen.any() else 0.0


def macro_f1(confusion: npt.NDArray[Any]) -> float:
    """Return the mean F1 over the classes that occur or are predicted, in 0..1."""
    total = confusion.sum(axis=1) + confusion.sum(axis=0)
    seen = total > 0
    return float((2 * confusion.diagonal()[seen] / total[seen]).mean()) if seen.any() else 0.0


def top_k_hits(probabilities: Floats, targets: Counts, k: int) -> int:
    """Count the rows of (N, C) whose true class is among the k most probable."""
    return int(_hits(probabilities, targets, k).sum())


def nll(probabilities: Floats, targets: Counts) -> float:
    """Return the mean negative log-likelihood in nats of (N, C); 0 for no row."""
    return float(_surprise(probabilities, targets).mean()) if len(targets) else 0.0


def per_class(confusion: Counts, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return support, precision, recall and F1 of each class; None where undefined."""
    right = confusion.diagonal()
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    rows = []
    for number, label in enumerate(labels):
        hits, true, told = int(right[number]), int(support[number]), int(predicted[number])
        rows.append(
            {
                "label": label,
                "support": true,
                "precision": hits / told if told else None,
                "recall": hits / true if true else None,
                "f1": 2 * hits / (true + told) if true + told else None,
            }
        )
    return rows


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
        width) and aurc (mean risk over all coverages); intervals of these, name → [low, high], at
        95 %; per_class; confusion (nested lists, rows true); reliability, for each bin that has
        pictures [confidence, accuracy, count]; risk_coverage, [coverage, risk] at 20 coverages.

    Source: Guo et al., 2017, equation 3 (ECE); Geifman and El-Yaniv, 2017 (risk and coverage).
    """
    scored = _Scored.of(probabilities, targets)
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
    above = np.asarray(parents)
    summed = probabilities @ np.eye(len(names), dtype=probabilities.dtype)[above]
    return summarize(summed, above[targets], names)


def tree_distances(
    targets: Counts, predicted: Counts, levels: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Say how far mistakes miss in the tree.

    Args:
        targets: (N,), class numbers.
        predicted: (N,), class numbers.
        levels: of each level, nearest first, the parent of each class.

    Returns:
        counts, one more than there are levels: of mistakes within a nearest parent, within the
        next, and so on, the last across the whole tree; and mean, from 1, 0 where there is none.
    """
    steps = (targets != predicted).astype(np.int64)
    for level in levels:
        above = np.asarray(level)
        steps += above[targets] != above[predicted]
    counts = np.bincount(steps, minlength=len(levels) + 2)[1:]
    mistakes = steps[steps > 0]
    return {"mean": float(mistakes.mean()) if len(mistakes) else 0.0, "counts": counts.tolist()}


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
    a, b = _Scored.of(ours, targets), _Scored.of(theirs, targets)
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


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """Return the two-sided p of McNemar's exact test: that both are right equally often.

    Args:
        only_ours: pictures that we alone have right.
        only_theirs: pictures that they alone have right.
    """
    from scipy.stats import binomtest  # slow to import, and training does not need it

    total = only_ours + only_theirs
    return float(binomtest(only_ours, total).pvalue) if total else 1.0


@dataclass(frozen=True)
class _Scored:
    """What figures need of each picture, so that they can be taken of any draw of pictures."""

    targets: Counts
    predicted: Counts
    hit1: Floats
    hit5: Floats
    surprise: Floats
    confidence: Floats
    bins: Counts
    order: Counts
    num_classes: int

    @classmethod
    def of(cls, probabilities: Floats, targets: Counts) -> _Scored:
        """Reduce (N, C) to what is needed."""
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1).astype(np.float64)
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
        return cls(
            targets,
            predicted,
            (targets == predicted).astype(np.float64),
            _hits(probabilities, targets, 5).astype(np.float64),
            _surprise(probabilities, targets),
            confidence,
            bins,
            np.argsort(-confidence, kind="stable"),
            probabilities.shape[1],
        )

    def figures(self, weights: Floats) -> dict[str, float]:
        """Return the figures of pictures that count as often as the weights (N,) say."""
        total, size = weights.sum(), self.num_classes
        cells = self.targets * size + self.predicted
        confusion = np.bincount(cells, weights=weights, minlength=size**2).reshape(size, size)
        gap = np.bincount(
            self.bins, weights=weights * (self.confidence - self.hit1), minlength=NUM_BINS
        )
        return {
            "top1": float(confusion.trace() / total),
            "top5": float(weights @ self.hit5 / total),
            "balanced_accuracy": balanced_accuracy(confusion),
            "macro_f1": macro_f1(confusion),
            "nll": float(weights @ self.surprise / total),
            "ece": float(np.abs(gap).sum() / total),
            "aurc": self._aurc(weights),
        }

    def _aurc(self, weights: Floats) -> float:
        ordered = weights[self.order]
        covered = ordered.cumsum()
        wrong = (ordered * (1 - self.hit1[self.order])).cumsum()
        risk = wrong / np.maximum(covered, 1e-12)
        return float((ordered * risk).sum() / covered[-1])


def _hits(probabilities: Floats, targets: Counts, k: int) -> npt.NDArray[np.bool_]:
    k = min(k, probabilities.shape[1])
    best = np.argpartition(-probabilities, k - 1, axis=1)[:, :k]
    found: npt.NDArray[np.bool_] = (best == targets[:, None]).any(axis=1)
    return found


def _surprise(probabilities: Floats, targets: Counts) -> Floats:
    """Return -log of the true class's probability (N,), rows summing to exactly 1."""
    true = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    sums = probabilities.sum(axis=1, dtype=np.float64)
    found: Floats = -np.log(np.clip(true / sums, 1e-12, None))
    return found


def _draws(num_rows: int, *, seed: int) -> Iterator[Floats]:
    """Yield how often each row comes in draws with replacement: fewer draws of large sets."""
    num_draws = int(np.clip(MAX_DRAWN_ROWS // num_rows, 100, MAX_DRAWS))
    rng = np.random.default_rng(seed)
    for _ in range(num_draws):
        rows = rng.integers(0, num_rows, num_rows)
        yield np.bincount(rows, minlength=num_rows).astype(np.float64)


def _intervals(scored: _Scored, *, seed: int) -> dict[str, list[float]]:
    draws = [scored.figures(weights) for weights in _draws(len(scored.targets), seed=seed)]
    return {name: _percentiles([draw[name] for draw in draws]) for name in FIGURES}


def _percentiles(values: Sequence[float]) -> list[float]:
    tail = 100 * (1 - LEVEL) / 2
    return [float(value) for value in np.percentile(values, [tail, 100 - tail])]


def _reliability(scored: _Scored) -> list[list[float]]:
    rows = []
    for number in range(NUM_BINS):
        inside = scored.bins == number
        if inside.any():
            confidence, accuracy = scored.confidence[inside].mean(), scored.hit1[inside].mean()
            rows.append([float(confidence), float(accuracy), int(inside.sum())])
    return rows


def _risk_coverage(scored: _Scored) -> list[list[float]]:
    wrong = (1 - scored.hit1[scored.order]).cumsum()
    total = len(wrong)
    ends = np.unique(np.ceil(np.linspace(0.05, 1, 20) * total).astype(np.int64))
    return [[float(end / total), float(wrong[end - 1] / end)] for end in ends]
