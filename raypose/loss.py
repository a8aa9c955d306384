"""What is minimised. Both losses are exact over all workers' pictures together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

__all__ = ["class_ce", "clip"]


def class_ce(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor,
    targets: torch.Tensor,
    *,
    weights: torch.Tensor,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum the cross-entropy of each picture against one caption of every class.

    Args:
        image_features: (B, D), normalised.
        text_features: (C, D), normalised.
        logit_scale: scalar factor on cosines.
        targets: int64 (B,), class numbers.
        weights: float (B,), 0 for rows that do not count.
        label_smoothing: share of the target spread over the classes.

    Returns:
        Scalar sum over the rows; divide by the number of rows over all workers.
    """
    logits = logit_scale.float() * image_features.float() @ text_features.float().T
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    return (losses * weights).sum()


def clip(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> torch.Tensor:
    """CLIP's symmetric pairwise loss over the global batch, for comparison.

    It pushes a picture away from captions of its own class that stand beside another picture.

    Args:
        image_features: (B, D), normalised; B alike on every rank.
        text_features: (B, D), normalised, the caption of each picture.
        logit_scale: scalar factor on cosines.
        rank: of this worker.
        world_size: number of workers.

    Returns:
        Scalar whose mean over the workers is the loss.

    Source: Radford et al., 2021, figure 3; open_clip's ClipLoss.
    """
    criterion = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world_size)
    loss: torch.Tensor = criterion(image_features.float(), text_features.float(), logit_scale)
    return loss
