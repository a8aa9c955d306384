"""A linear head on features as they are, started from the captions, fitted by L-BFGS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["PENALTIES", "choose_penalty", "fit", "fit_best"]

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
MAX_STEPS = 200
NUM_FOLDS = 5


def fit(
    features: torch.Tensor,
    targets: torch.Tensor,
    start: torch.Tensor,
    *,
    logit_scale: float,
    penalty: float,
) -> torch.Tensor:
    """Minimise cross-entropy plus a pull towards the start.

    The objective is the mean of the cross-entropy plus penalty / 2N · ‖V − V₀‖², where V are the
    head's weights times the scale: multinomial logistic regression with a prior at V₀.

    Args:
        features: (N, D), normalised.
        targets: int64 (N,), class numbers.
        start: (C, D), the captions' features.
        logit_scale: factor on cosines.
        penalty: strength of the pull, the inverse of scikit-learn's C.

    Returns:
        float32 (C, D): in place of the captions' features, at the same scale.
    """
    features, origin = features.double(), start.double() * logit_scale
    weights = origin.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=MAX_STEPS, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=1e-6, tolerance_change=1e-9,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(features @ weights.T, targets)
        value = value + penalty / (2 * len(targets)) * (weights - origin).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return (weights.detach() / logit_scale).float()


def fit_best(
    features: torch.Tensor,
    targets: torch.Tensor,
    start: torch.Tensor,
    *,
    logit_scale: float,
    penalty: float | None = None,
) -> tuple[torch.Tensor, float]:
    """Fit with a penalty, by default with the one that is best on pictures left out.

    Returns:
        The head, as `fit` does, and the penalty.
    """
    if penalty is None:
        penalty = choose_penalty(features, targets, start, logit_scale=logit_scale)
    return fit(features, targets, start, logit_scale=logit_scale, penalty=penalty), penalty


def choose_penalty(
    features: torch.Tensor,
    targets: torch.Tensor,
    start: torch.Tensor,
    *,
    logit_scale: float,
    penalties: Sequence[float] = PENALTIES,
) -> float:
    """Return the penalty with the least cross-entropy on folds of the same pictures left out.

    With one picture of every class nothing can be left out: the middle of the penalties then.
    """
    folds = _folds(targets)
    if folds.max() == 0:
        return penalties[len(penalties) // 2]
    totals = []
    for penalty in penalties:
        total = 0.0
        for fold in range(int(folds.max()) + 1):
            out = folds == fold
            head = fit(
                features[~out], targets[~out], start, logit_scale=logit_scale, penalty=penalty
            )
            logits = logit_scale * features[out] @ head.T
            total += float(F.cross_entropy(logits, targets[out], reduction="sum"))
        totals.append(total)
    return penalties[int(np.argmin(totals))]


def _folds(targets: torch.Tensor) -> torch.Tensor:
    """Deal each class's rows out over the folds, as they come: int64 (N,)."""
    most = int(torch.bincount(targets).max())
    num_folds = min(NUM_FOLDS, most)
    folds = torch.empty_like(targets)
    for label in torch.unique(targets):
        rows = (targets == label).nonzero().flatten()
        folds[rows] = torch.arange(len(rows)) % num_folds
    return folds
