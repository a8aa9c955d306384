from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from raypose import loss


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


def test_clip_is_the_symmetric_cross_entropy() -> None:
    images, texts, scale = features(6, 0), features(6, 1), torch.tensor(5.0)
    logits = scale * images @ texts.T
    diagonal = torch.arange(6)
    expected = (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
    torch.testing.assert_close(loss.clip(images, texts, scale), expected)


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
