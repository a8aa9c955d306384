from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as theirs
from hypothesis import given
from hypothesis import strategies as st

from raypose import metrics

LABELS = tuple("abcdefgh")


@given(st.integers(0, 10_000), st.integers(8, 60))
def test_figures_agree_with_scikit_learn(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    odds = rng.dirichlet(np.ones(8), size=rows).astype(np.float32)
    targets = np.concatenate([np.arange(8), rng.integers(0, 8, rows - 8)])
    made = metrics.summarize(odds, targets, LABELS)
    guess = odds.argmax(1)
    assert made["top1"] == pytest.approx(theirs.accuracy_score(targets, guess), abs=1e-6)
    top5 = theirs.top_k_accuracy_score(targets, odds, k=5, labels=range(8))
    assert made["top5"] == pytest.approx(top5, abs=1e-6)
    balanced = theirs.balanced_accuracy_score(targets, guess)
    assert made["balanced_accuracy"] == pytest.approx(balanced, abs=1e-6)
    exact = odds.astype(np.float64) / odds.astype(np.float64).sum(1, keepdims=True)
    assert made["nll"] == pytest.approx(theirs.log_loss(targets, exact, labels=range(8)), rel=1e-4)
    assert made["confusion"] == theirs.confusion_matrix(targets, guess).tolist()
    precision, recall, f1, support = theirs.precision_recall_fscore_support(
        targets, guess, labels=range(8), zero_division=0
    )
    for k, row in enumerate(made["per_class"]):
        assert (row["precision"] or 0) == pytest.approx(precision[k], abs=1e-6)
        assert row["recall"] == pytest.approx(recall[k], abs=1e-6)
        assert row["f1"] == pytest.approx(f1[k], abs=1e-6)
        assert row["support"] == support[k]


def test_absent_classes_are_undefined_not_zero() -> None:
    odds = np.eye(3, dtype=np.float32)[[0, 0]]
    made = metrics.summarize(odds, np.array([0, 0]), ("a", "b", "c"))
    assert made["balanced_accuracy"] == 1.0
    assert made["per_class"][1] == {
        "label": "b", "support": 0, "precision": None, "recall": None, "f1": None
    }  # fmt: skip
    assert made["top5"] == 1.0
    assert metrics.balanced_accuracy(np.zeros((2, 2), dtype=np.int64)) == 0.0


def test_parents_sum_their_classes() -> None:
    rng = np.random.default_rng(0)
    odds = rng.dirichlet(np.ones(6), size=200).astype(np.float32)
    targets = rng.integers(0, 6, 200)
    parents = [0, 0, 1, 2, 2, 2]
    found = metrics.at_parents(odds, targets, parents)
    summed = np.stack([odds[:, np.array(parents) == k].sum(axis=1) for k in range(3)], axis=1)
    above = np.array(parents)[targets]
    assert found["num_classes"] == 3
    assert found["top1"] == pytest.approx((summed.argmax(1) == above).mean())
    assert found["balanced_accuracy"] == pytest.approx(
        theirs.balanced_accuracy_score(above, summed.argmax(1))
    )
