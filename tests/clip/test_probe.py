from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from raypose.clip import probe


def pictures(per_class: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features around five centres, their classes, and captions near the centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 12, generator=torch.Generator().manual_seed(9))
    targets = torch.arange(5).repeat(per_class)
    noise = torch.randn(len(targets), 12, generator=generator)
    features = F.normalize(centres[targets] + noise, dim=-1)
    return features, targets, F.normalize(centres + 0.5, dim=-1)


def test_from_nothing_it_is_scikit_learns_regression() -> None:
    features, targets, _ = pictures(20, 0)
    head = probe.fit(features, targets, torch.zeros(5, 12), logit_scale=10.0, penalty=0.5)
    theirs = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(features.numpy(), targets.numpy())
    odds = (10.0 * features @ head.T).softmax(-1).numpy()
    np.testing.assert_allclose(odds, theirs.predict_proba(features.numpy()), atol=1e-4)


def test_a_strong_pull_keeps_the_captions() -> None:
    features, targets, start = pictures(4, 0)
    head = probe.fit(features, targets, start, logit_scale=10.0, penalty=1e6)
    torch.testing.assert_close(head, start, atol=1e-3, rtol=0)


def test_the_penalty_is_chosen_on_what_was_left_out() -> None:
    features, targets, start = pictures(40, 0)
    chosen = probe.choose_penalty(features, targets, start, logit_scale=10.0)
    assert chosen in probe.PENALTIES
    others, truth, _ = pictures(200, 1)

    def value(penalty: float) -> float:
        head = probe.fit(features, targets, start, logit_scale=10.0, penalty=penalty)
        return float(F.cross_entropy(10.0 * others @ head.T, truth))

    values = {penalty: value(penalty) for penalty in probe.PENALTIES}
    assert values[chosen] <= sorted(values.values())[1]  # the best on new pictures, or the next


def test_one_picture_a_class_leaves_nothing_out() -> None:
    features, targets, start = pictures(1, 0)
    assert probe.choose_penalty(features, targets, start, logit_scale=10.0) == 0.1
