from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss

from raypose.clip import loss


def features(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 8, generator=generator, dtype=torch.float32), dim=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_ce_is_the_textbook_sum(smoothing: float) -> None:
    images, texts, targets = features(5, 0), features(3, 1), torch.tensor([0, 1, 2, 2, 0])
    weights = torch.tensor([1.0, 1, 0, 1, 0])
    scale = torch.tensor(7.0)
    expected = 0.0
    for row in range(5):
        odds = (scale * images[row] @ texts.T).log_softmax(0)
        wanted = torch.full((3,), smoothing / 3)
        wanted[targets[row]] += 1 - smoothing
        expected += float(weights[row]) * -float(wanted @ odds)
    made = loss.class_ce(images, texts, scale, targets, weights=weights, label_smoothing=smoothing)
    assert made.item() == pytest.approx(expected, abs=1e-5)


def test_logit_adjustment_adds_log_priors() -> None:
    images, texts, targets = features(5, 0), features(3, 1), torch.tensor([0, 1, 2, 2, 0])
    prior = torch.tensor([0.7, 0.2, 0.1])
    expected = 0.0
    for row in range(5):
        odds = prior * (7 * images[row] @ texts.T).exp()
        expected -= math.log(odds[targets[row]] / odds.sum())
    made = loss.class_ce(
        images, texts, torch.tensor(7.0), targets, weights=torch.ones(5), adjustment=prior.log()
    )
    assert made.item() == pytest.approx(expected, abs=1e-4)


def test_parents_are_scored_by_summed_probabilities() -> None:
    images, texts, targets = features(5, 0), features(4, 1), torch.tensor([0, 1, 2, 3, 0])
    levels = [torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1])]
    expected = 0.0
    for row in range(5):
        odds = (7 * images[row] @ texts.T).softmax(0)
        truth = int(targets[row])
        above = [
            -math.log(sum(float(odds[k]) for k in range(4) if level[k] == level[truth]))
            for level in levels
        ]
        expected += 0.75 * -math.log(odds[truth]) + 0.25 * sum(above) / 2
    made = loss.class_ce(
        images,
        texts,
        torch.tensor(7.0),
        targets,
        weights=torch.ones(5),
        parents=levels,
        parents_weight=0.25,
    )
    assert made.item() == pytest.approx(expected, abs=1e-4)


def test_clip_is_open_clips() -> None:
    images, texts, scale = features(6, 0), features(6, 1), torch.tensor(5.0)
    made = loss.contrastive(images, texts, scale, torch.arange(6), weights=torch.ones(6))
    torch.testing.assert_close(made / 6, ClipLoss()(images, texts, scale))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_multi_positive_is_the_textbook_sum(smoothing: float) -> None:
    images, texts, scale = features(6, 0), features(6, 1), 5.0
    groups, weights = [0, 1, 0, 2, 1, 0], [1, 1, 1, 1, 0, 1]
    rows = [row for row in range(6) if weights[row]]
    expected = 0.0
    for mine, others in ((images, texts), (texts, images)):
        for i in rows:
            odds = {j: math.exp(scale * float(mine[i] @ others[j])) for j in rows}
            right = [j for j in rows if groups[j] == groups[i]]
            for j in rows:
                wanted = (1 - smoothing) * (j in right) / len(right) + smoothing / len(rows)
                expected -= wanted * math.log(odds[j] / sum(odds.values())) / 2
    made = loss.contrastive(
        images,
        texts,
        torch.tensor(scale),
        torch.tensor(groups),
        weights=torch.tensor(weights, dtype=torch.float32),
        label_smoothing=smoothing,
    )
    assert made.item() == pytest.approx(expected, rel=1e-5)


def test_one_caption_a_class_makes_clip_and_multi_positive_pull_alike() -> None:
    groups = torch.tensor([0, 1, 0, 2, 1, 0])
    texts = features(3, 1)[groups]
    gradients = []
    for numbers in (torch.arange(6), groups):
        images = features(6, 0).requires_grad_()
        made = loss.contrastive(images, texts, torch.tensor(5.0), numbers, weights=torch.ones(6))
        gradients += torch.autograd.grad(made, images)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_siglip_is_open_clips_where_each_picture_is_its_own_class() -> None:
    images, texts = features(6, 0), features(6, 1)
    scale, bias = torch.tensor(5.0), torch.tensor(-3.0)
    made = loss.siglip(images, texts, scale, bias, torch.arange(6), weights=torch.ones(6))
    torch.testing.assert_close(made / 6, SigLipLoss()(images, texts, scale, bias))


def test_siglip_takes_pairs_of_one_class_for_right() -> None:
    images, texts, groups = features(4, 0), features(4, 1), torch.tensor([0, 1, 0, 2])
    weights = torch.tensor([1.0, 1, 1, 0])
    expected = 0.0
    for i in range(3):
        for j in range(3):
            logit = 5 * float(images[i] @ texts[j]) - 3
            sign = 1 if groups[i] == groups[j] else -1
            expected += math.log1p(math.exp(-sign * logit))
    made = loss.siglip(
        images, texts, torch.tensor(5.0), torch.tensor(-3.0), groups, weights=weights
    )
    assert made.item() == pytest.approx(expected, rel=1e-5)


def test_weightless_rows_leave_no_gradient() -> None:
    images = features(2, 0).requires_grad_()
    made = loss.class_ce(
        images,
        features(3, 1),
        torch.tensor(3.0),
        torch.tensor([0, 1]),
        weights=torch.tensor([1.0, 0.0]),
    )
    (gradient,) = torch.autograd.grad(made, images)
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0
