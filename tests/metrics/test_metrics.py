from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from raypose import metrics

LABELS = tuple("abcdefgh")


@settings(deadline=None, max_examples=25)
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
    macro = theirs.f1_score(targets, guess, average="macro")
    assert made["macro_f1"] == pytest.approx(macro, abs=1e-6)
    exact = odds.astype(np.float64) / odds.astype(np.float64).sum(1, keepdims=True)
    assert made["nll"] == pytest.approx(theirs.log_loss(targets, exact, labels=range(8)), abs=1e-6)
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
    found = metrics.at_parents(odds, targets, parents, ("x", "y", "z"))
    summed = np.stack([odds[:, np.array(parents) == k].sum(axis=1) for k in range(3)], axis=1)
    above = np.array(parents)[targets]
    assert found["num_classes"] == 3
    assert found["top1"] == pytest.approx((summed.argmax(1) == above).mean())
    assert found["balanced_accuracy"] == pytest.approx(
        theirs.balanced_accuracy_score(above, summed.argmax(1))
    )
    assert found["labels"] == ["x", "y", "z"]


def scored(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right rather more often than not."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 6, rows)
    logits = rng.normal(size=(rows, 6)) + 2.0 * np.eye(6)[targets]
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return odds.astype(np.float32), targets


def test_calibration_and_risk_are_the_textbook_sums() -> None:
    odds, targets = scored(300)
    made = metrics.summarize(odds, targets, tuple("abcdef"))
    confidence, right = odds.max(1), odds.argmax(1) == targets
    ece = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            ece += inside.sum() / 300 * abs(right[inside].mean() - confidence[inside].mean())
    assert made["ece"] == pytest.approx(ece, abs=1e-6)
    ordered = right[np.argsort(-confidence, kind="stable")]
    risks = [(~ordered[: k + 1]).mean() for k in range(300)]
    assert made["aurc"] == pytest.approx(np.mean(risks), abs=1e-6)
    assert made["risk_coverage"][-1] == pytest.approx([1.0, 1 - made["top1"]])
    assert made["risk_coverage"][9] == pytest.approx([0.5, risks[149]])
    assert sum(count for _, _, count in made["reliability"]) == 300


def test_intervals_cover_what_they_should() -> None:
    """Of many test sets of one population, some 95 % have its accuracy in their interval."""
    population, truth = scored(40_000, seed=5)
    accuracy = (population.argmax(1) == truth).mean()
    inside = 0
    for number in range(60):
        rows = np.random.default_rng(number).integers(0, 40_000, 200)
        low, high = metrics.summarize(population[rows], truth[rows], tuple("abcdef"))["intervals"][
            "top1"
        ]
        inside += low <= accuracy <= high
    assert 52 <= inside <= 60


def test_distances_count_levels_up_the_tree() -> None:
    levels = [[0, 0, 1, 1, 2], [0, 0, 0, 0, 1]]
    targets, guesses = np.array([0, 0, 0, 0, 3]), np.array([0, 1, 2, 4, 2])
    found = metrics.tree_distances(targets, guesses, levels)
    assert found == {"mean": (1 + 2 + 3 + 1) / 4, "counts": [2, 1, 1]}
    assert metrics.tree_distances(targets, targets, levels)["mean"] == 0.0
    assert metrics.tree_distances(targets, guesses, [])["counts"] == [4]


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test(ours: int, theirs_alone: int) -> None:
    total = ours + theirs_alone
    expected = binomtest(ours, total, 0.5).pvalue if total else 1.0
    assert metrics.mcnemar(ours, theirs_alone) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert metrics.mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 2**10)


def test_pairs_share_what_is_hard() -> None:
    """Two models that err on the same pictures differ by less than their own intervals say."""
    odds, targets = scored(400)
    other = odds.copy()
    other[:4] = np.eye(6, dtype=np.float32)[(targets[:4] + 1) % 6]
    found = metrics.paired(odds, other, targets)["top1"]
    assert found["difference"] == pytest.approx(found["a"] - found["b"])
    low, high = found["interval"]
    alone = metrics.summarize(odds, targets, tuple("abcdef"))["intervals"]["top1"]
    assert low <= found["difference"] <= high
    assert high - low < 0.5 * (alone[1] - alone[0])
    same = metrics.paired(odds, odds, targets)
    assert all(entry["interval"] == [0.0, 0.0] for entry in same.values())


def test_shares_without_a_mistake_have_an_interval() -> None:
    """120 of 120 is no proof of all; scipy's Wilson is the check."""
    chances = np.eye(6)[np.arange(120) % 6] * 0.9 + 0.02
    found = metrics.summarize(chances, np.arange(120) % 6, [str(k) for k in range(6)])
    assert found["top1"] == found["balanced_accuracy"] == 1.0
    for name in ("top1", "balanced_accuracy", "macro_f1"):
        low, high = found["intervals"][name]
        assert 0.9 < low < 0.995, name
        assert high == 1.0
    assert "ece" not in found["intervals"]
    for hits, total in ((0, 10), (3, 10), (120, 120), (3252, 3826)):
        theirs = binomtest(hits, total).proportion_ci(method="wilson")
        assert metrics.wilson(hits, total) == pytest.approx([theirs.low, theirs.high], abs=1e-9)


def test_risks_do_not_hang_on_the_order_of_equals() -> None:
    rng = np.random.default_rng(0)
    chances = rng.choice([[0.6, 0.4], [0.8, 0.2], [1.0, 0.0]], size=200)
    targets = rng.integers(0, 2, 200)
    found = set()
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(200)
        made = metrics.summarize(chances[order], targets[order], ["a", "b"])
        found.add((round(made["aurc"], 9), str(np.round(made["risk_coverage"], 9))))
    worst = np.argsort(targets, kind="stable")
    for order in (worst, worst[::-1]):
        made = metrics.summarize(chances[order], targets[order], ["a", "b"])
        found.add((round(made["aurc"], 9), str(np.round(made["risk_coverage"], 9))))
    assert len(found) == 1
    # all alike: the risk is the share of mistakes at every coverage
    same = metrics.summarize(np.full((4, 2), 0.5), np.array([0, 0, 1, 1]), ["a", "b"])
    assert same["aurc"] == pytest.approx(0.5)


def test_probabilities_that_are_no_numbers_are_refused() -> None:
    chances = np.full((4, 2), 0.5)
    chances[2, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 4 pictures are not finite"):
        metrics.summarize(chances, np.array([0, 1, 0, 1]), ["a", "b"])


def test_balanced_accuracies_are_held_against_each_other() -> None:
    rng = np.random.default_rng(0)
    targets = rng.permutation(np.arange(1200) % 6)
    ours, theirs = (rng.random(1200) < 0.4 + 0.08 * targets), (rng.random(1200) < 0.5)
    found = metrics.of_difference(ours.astype(float), theirs.astype(float), targets)
    one, other = (np.eye(6)[np.where(hit, targets, (targets + 1) % 6)] for hit in (ours, theirs))
    drawn = metrics.paired(one, other, targets)["balanced_accuracy"]
    assert found["difference"] == pytest.approx(drawn["difference"])
    assert found["interval"] == pytest.approx(drawn["interval"], abs=0.01)
    same = metrics.of_difference(ours[:12].astype(float), ours[:12].astype(float), targets[:12])
    assert same["difference"] == 0
    assert same["interval"][0] < 0 < same["interval"][1]  # 12 pictures cannot tell
