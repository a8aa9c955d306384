"""Figures of merit of scored pictures, checked in the tests against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "FIGURES",
    "NUM_BINS",
    "Counts",
    "Floats",
    "balanced_accuracy",
    "confusion_matrix",
    "macro_f1",
    "nll",
    "of_parents",
    "per_class",
    "top_k_hits",
    "tree_distances",
]

Counts = npt.NDArray[np.int64]


Floats = npt.NDArray[np.floating[Any]]


FIGURES = ("top1", "top5", "balanced_accuracy", "macro_f1", "nll", "ece", "aurc")
"""What has an interval, in the order of tables."""


NUM_BINS = 15


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
    return float(_row_nll(probabilities, targets).mean()) if len(targets) else 0.0


def of_parents(probabilities: Floats, parents: Sequence[int], num_parents: int) -> Floats:
    """Return the probabilities (N, P) of a level of the tree: sums over each parent's classes.

    Args:
        probabilities: (N, C).
        parents: of each of the C classes, numbered from 0.
        num_parents: P.
    """
    members = np.eye(num_parents, dtype=probabilities.dtype)[np.asarray(parents)]
    summed: Floats = probabilities @ members
    return summed


def per_class(confusion: Counts, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return support, precision, recall and F1 of each class; None where undefined."""
    right = confusion.diagonal()
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    rows = []
    for number, label in enumerate(labels):
        hits, true, chosen = int(right[number]), int(support[number]), int(predicted[number])
        rows.append(
            {
                "label": label,
                "support": true,
                "precision": hits / chosen if chosen else None,
                "recall": hits / true if true else None,
                "f1": 2 * hits / (true + chosen) if true + chosen else None,
            }
        )
    return rows


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


@dataclass(frozen=True)
class Scored:
    """What figures need of each picture, so that they can be taken of any draw of pictures."""

    targets: Counts
    predicted: Counts
    hit1: Floats
    hit5: Floats
    nll: Floats
    confidence: Floats
    bins: Counts
    order: Counts
    ties: Counts
    """Of each picture in that order, the number of its group of equal confidence."""
    num_classes: int

    @classmethod
    def of(cls, probabilities: Floats, targets: Counts) -> Scored:
        """Reduce (N, C) to what is needed.

        Raises:
            ValueError: where a probability is not finite: it would be taken for a guess.
        """
        broken = ~np.isfinite(probabilities).all(axis=1)
        if broken.any():
            raise ValueError(
                f"probabilities of {int(broken.sum())} of {len(targets)} pictures are not finite; "
                "the model's weights are of no use"
            )
        predicted = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1).astype(np.float64)
        order = np.argsort(-confidence, kind="stable")
        bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
        return cls(
            targets,
            predicted,
            (targets == predicted).astype(np.float64),
            _hits(probabilities, targets, 5).astype(np.float64),
            _row_nll(probabilities, targets),
            confidence,
            bins,
            order,
            np.cumsum(np.diff(confidence[order], prepend=confidence[order[:1]]) != 0),
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
            "nll": float(weights @ self.nll / total),
            "ece": float(np.abs(gap).sum() / total),
            "aurc": self._aurc(weights),
        }

    def risks(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the pictures' weights (N,), the surest first, with risk and coverage up to each.

        Pictures of one confidence come in no order: each bears the mean error of its group.
        """
        ordered = weights[self.order]
        size = int(self.ties[-1]) + 1
        wrong = np.bincount(
            self.ties, weights=ordered * (1 - self.hit1[self.order]), minlength=size
        )
        held = np.bincount(self.ties, weights=ordered, minlength=size)
        shared = (wrong / np.maximum(held, 1e-12))[self.ties]
        covered = ordered.cumsum()
        return ordered, (ordered * shared).cumsum() / np.maximum(covered, 1e-12), covered

    def _aurc(self, weights: Floats) -> float:
        ordered, risk, covered = self.risks(weights)
        return float((ordered * risk).sum() / covered[-1])


def _hits(probabilities: Floats, targets: Counts, k: int) -> npt.NDArray[np.bool_]:
    k = min(k, probabilities.shape[1])
    best = np.argpartition(-probabilities, k - 1, axis=1)[:, :k]
    found: npt.NDArray[np.bool_] = (best == targets[:, None]).any(axis=1)
    return found


def _row_nll(probabilities: Floats, targets: Counts) -> Floats:
    """Return -log of the true class's probability (N,), rows summing to exactly 1."""
    true = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    sums = probabilities.sum(axis=1, dtype=np.float64)
    found: Floats = -np.log(np.clip(true / sums, 1e-12, None))
    return found
