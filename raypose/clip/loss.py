"""What is minimised. Every loss is exact over all workers' pictures together.

Each function returns the sum over this worker's rows; times the number of workers and divided by
the number of rows over all of them, its mean over workers is the loss of the whole batch, which is
what DDP and FSDP average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

__all__ = ["class_ce", "contrastive", "siglip"]


def class_ce(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor,
    targets: torch.Tensor,
    *,
    weights: torch.Tensor,
    label_smoothing: float = 0.0,
    adjustment: torch.Tensor | None = None,
    parents: Sequence[torch.Tensor] = (),
    parents_weight: float = 0.0,
) -> torch.Tensor:
    """Sum the cross-entropy of each picture against one caption of every class.

    Args:
        image_features: (B, D), normalised.
        text_features: (C, D), normalised.
        logit_scale: scalar factor on cosines.
        targets: int64 (B,), class numbers.
        weights: float (B,), 0 for rows that do not count.
        label_smoothing: share of the target spread over the classes.
        adjustment: float (C,), added to the logits: a multiple of the log priors.
        parents: for each level of the tree int64 (C,), the number of each class's parent.
        parents_weight: share of the loss that is the mean over levels of the parents'
            cross-entropy, their probabilities being the sums of their classes'.

    Source: logit adjustment: Menon et al., 2021, equation 10.
    """
    logits = logit_scale.float() * image_features.float() @ text_features.float().T
    if adjustment is not None:
        logits = logits + adjustment
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    if parents and parents_weight:
        above = torch.stack([_parents_ce(logits, targets, level) for level in parents])
        losses = (1 - parents_weight) * losses + parents_weight * above.mean(0)
    return (losses * weights).sum()


def contrastive(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor,
    groups: torch.Tensor,
    *,
    weights: torch.Tensor,
    label_smoothing: float = 0.0,
    world_size: int = 1,
) -> torch.Tensor:
    """Sum the symmetric cross-entropy between the pictures and captions of the global batch.

    Rows of one group are each other's positives, in equal parts. Where each row is a group of its
    own this is CLIP's loss; where groups are classes it does not push a picture away from a
    caption of its own class.

    Args:
        image_features: (B, D), normalised; B alike on every worker.
        text_features: (B, D), normalised, the caption of each picture.
        logit_scale: scalar factor on cosines.
        groups: int64 (B,), different groups having different numbers on all workers.
        weights: float (B,), 0 for rows that do not count.
        label_smoothing: share of the target spread over the batch.
        world_size: number of workers; the features of the others are gathered with gradients.

    Source: Radford et al., 2021, figure 3; Khosla et al., 2020, equation 2.
    """
    images, texts = image_features.float(), text_features.float()
    all_groups, all_weights = (_gathered(x, world_size) for x in (groups, weights))
    same = (groups[:, None] == all_groups).float() * all_weights
    wanted = same / same.sum(1, keepdim=True).clamp(min=1)
    wanted = (1 - label_smoothing) * wanted + label_smoothing * all_weights / all_weights.sum()
    hidden = torch.where(all_weights > 0, 0.0, -torch.inf)
    total = images.new_zeros(())
    for mine, others in ((images, texts), (texts, images)):
        logits = logit_scale.float() * mine @ _gathered(others, world_size).T
        log_odds = (logits + hidden).log_softmax(1).masked_fill(all_weights == 0, 0.0)
        total = total - ((wanted * log_odds).sum(1) * weights).sum() / 2
    return total


def siglip(
    image_features: torch.Tensor,
    text_features: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    groups: torch.Tensor,
    *,
    weights: torch.Tensor,
    world_size: int = 1,
) -> torch.Tensor:
    """Sum the sigmoid loss over all pairs of a picture here and a caption of the global batch.

    A pair of one group is right, any other wrong.

    Args:
        image_features: (B, D), normalised; B alike on every worker.
        text_features: (B, D), normalised, the caption of each picture.
        logit_scale: scalar factor on cosines.
        logit_bias: scalar added to them.
        groups: int64 (B,), class numbers.
        weights: float (B,), 0 for rows that do not count.
        world_size: number of workers.

    Source: Zhai et al., 2023, equation 2, with labels by class.
    """
    all_groups, all_weights = (_gathered(x, world_size) for x in (groups, weights))
    texts = _gathered(text_features.float(), world_size)
    logits = logit_scale.float() * image_features.float() @ texts.T + logit_bias.float()
    sign = torch.where(groups[:, None] == all_groups, 1.0, -1.0)
    return -(F.logsigmoid(sign * logits) * weights[:, None] * all_weights).sum()


def _parents_ce(logits: torch.Tensor, targets: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy (B,) of the true parents, in log space throughout."""
    mine = level == level[targets][:, None]
    return logits.logsumexp(1) - logits.masked_fill(~mine, -torch.inf).logsumexp(1)


class _Gather(torch.autograd.Function):
    """All workers' rows; a row's gradient is the sum of what all workers want of it."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.size = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        first = ctx.size * dist.get_rank()
        return gradient[first : first + ctx.size]


def _gathered(rows: torch.Tensor, world_size: int) -> torch.Tensor:
    """Return every worker's rows, in the order of ranks."""
    if world_size == 1:
        return rows
    made: torch.Tensor = _Gather.apply(rows)
    return made
