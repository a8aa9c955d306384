"""Figures of merit from counts and probabilities, checked in the tests against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "at_parents",
    "balanced_accuracy",
    "confusion_matrix",
    "nll",
    "per_class",
    "summarize",
    "top_k_hits",
]

Counts = npt.NDArray[np.int64]


def confusion_matrix(targets: Counts, predicted: Counts, *, num_classes: int) -> Counts:
    """Count pictures by (true class, predicted class): int64 (C, C)."""
    cells = targets * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(confusion: Counts) -> float:
    """Return the mean recall over the classes that occur, in 0..1; 0 where none does."""
    support = confusion.sum(axis=1)
    seen = support > 0
    return float((confusion.diagonal()[seen] / support[seen]).mean()) if seen.any() else 0.0


def top_k_hits(probabilities: npt.NDArray[np.float32], targets: Counts, k: int) -> int:
    """Count the rows of (N, C) whose true class is among the k most probable."""
    k = min(k, probabilities.shape[1])
    best = np.argpartition(-probabilities, k - 1, axis=1)[:, :k]
    return int((best == targets[:, None]).any(axis=1).sum())


def nll(probabilities: npt.NDArray[np.float32], targets: Counts) -> float:
    """Return the mean negative log-likelihood in nats of (N, C); 0 for no row."""
    true = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.clip(true, 1e-12, None)).mean()) if len(targets) else 0.0


def per_class(confusion: Counts, labels: tuple[str, ...]) -> list[dict[str, Any]]:
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


def at_parents(
    probabilities: npt.NDArray[np.float32], targets: Counts, parents: Sequence[int]
) -> dict[str, Any]:
    """Score a level of the tree: a parent's probability is the sum of its classes'.

    Args:
        probabilities: (N, C).
        targets: (N,), class numbers.
        parents: of each of the C classes, numbered from 0.

    Returns:
        num_classes, top1, balanced_accuracy.
    """
    above = np.asarray(parents)
    size = int(above.max()) + 1
    summed = probabilities @ np.eye(size, dtype=probabilities.dtype)[above]
    confusion = confusion_matrix(above[targets], summed.argmax(axis=1), num_classes=size)
    return {
        "num_classes": size,
        "top1": int(confusion.trace()) / len(targets),
        "balanced_accuracy": balanced_accuracy(confusion),
    }


def summarize(
    probabilities: npt.NDArray[np.float32], targets: Counts, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Return all figures of a scored data set.

    Args:
        probabilities: (N, C).
        targets: (N,), class numbers.
        labels: C class ids.

    Returns:
        num_examples, top1, top5, balanced_accuracy, nll (nats), per_class, confusion (nested
        lists, rows true).
    """
    total = len(targets)
    confusion = confusion_matrix(targets, probabilities.argmax(axis=1), num_classes=len(labels))
    return {
        "num_examples": total,
        "top1": int(confusion.trace()) / total,
        "top5": top_k_hits(probabilities, targets, 5) / total,
        "balanced_accuracy": balanced_accuracy(confusion),
        "nll": nll(probabilities, targets),
        "per_class": per_class(confusion, labels),
        "confusion": confusion.tolist(),
    }
