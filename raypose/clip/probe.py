"""A linear head on features as they are, started from the captions, fitted by L-BFGS."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from raypose.clip import arithmetic

__all__ = ["PENALTIES", "choose_penalty", "fit", "fit_best"]

Array = npt.NDArray[np.float64]

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
MAX_STEPS = 200
NUM_FOLDS = 5
WORTH_THREADS = 10**8
"""Multiplications of a step from which more than one thread gains more than it costs."""


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
    origin = start.double().numpy() * logit_scale
    weights = _minimum(features, targets, origin, penalty, begin=origin)
    return torch.from_numpy(weights / logit_scale).float()


def _minimum(
    features: torch.Tensor, targets: torch.Tensor, origin: Array, penalty: float, *, begin: Array
) -> Array:
    """Return where the objective of `fit` is least, (C, D), looked for from `begin` on."""
    from scipy.optimize import minimize  # a second that replicas and workers can do without

    rows, start = features.double(), torch.from_numpy(origin)
    right = F.one_hot(targets, len(origin)).double()
    strength = penalty / len(rows)

    def value(flat: Array) -> tuple[float, Array]:
        weights = torch.from_numpy(flat).view_as(start)
        logits = rows @ weights.T
        pull = weights - start
        loss = F.cross_entropy(logits, targets) + strength / 2 * pull.square().sum()
        slope = (logits.softmax(-1) - right).T @ rows / len(rows) + strength * pull
        return float(loss), slope.numpy().ravel()

    asked = {"maxiter": MAX_STEPS, "maxcor": 20, "gtol": 1e-6, "ftol": 1e-8}
    alone = features.numel() * len(origin) < WORTH_THREADS
    with arithmetic.one_thread() if alone else nullcontext():
        found = minimize(value, begin.ravel(), jac=True, method="L-BFGS-B", options=asked)
    return np.asarray(found.x, dtype=np.float64).reshape(origin.shape)


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
    origin = start.double().numpy() * logit_scale
    totals = dict.fromkeys(sorted(penalties, reverse=True), 0.0)
    for fold in range(int(folds.max()) + 1):
        out, weights = folds == fold, origin
        for penalty in totals:  # each from where the one before, which pulls harder, came to
            weights = _minimum(features[~out], targets[~out], origin, penalty, begin=weights)
            logits = features[out].double() @ torch.from_numpy(weights).T
            totals[penalty] += float(F.cross_entropy(logits, targets[out], reduction="sum"))
    return min(totals, key=totals.__getitem__)


def _folds(targets: torch.Tensor) -> torch.Tensor:
    """Deal each class's rows out over the folds, as they come: int64 (N,)."""
    most = int(torch.bincount(targets).max())
    num_folds = min(NUM_FOLDS, most)
    folds = torch.empty_like(targets)
    for label in torch.unique(targets):
        rows = (targets == label).nonzero().flatten()
        folds[rows] = torch.arange(len(rows)) % num_folds
    return folds
