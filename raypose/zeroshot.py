"""From captions to a classifier, and from features to probabilities: in this one place."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from raypose import captions
from raypose.grammar import Node
from raypose.model import Clip
from raypose.taxonomy import Taxonomy

__all__ = ["build_classifier", "probabilities"]


@torch.no_grad()
def build_classifier(
    clip: Clip, grammar: Node, taxonomy: Taxonomy, *, device: torch.device
) -> torch.Tensor:
    """Encode each class's evaluation captions, average, and normalise again.

    Returns:
        float32 (C, D), rows of length 1, in class order.
    """
    groups = [captions.evaluation_captions(grammar, card) for card in taxonomy.cards]
    unique = list(dict.fromkeys(caption for group in groups for caption in group))
    parts = [
        clip.model.encode_text(clip.tokenize(unique[k : k + 256]).to(device), normalize=True)
        for k in range(0, len(unique), 256)
    ]
    features = dict(zip(unique, torch.cat(parts).float(), strict=True))
    rows = [torch.stack([features[caption] for caption in group]).mean(0) for group in groups]
    return F.normalize(torch.stack(rows), dim=-1)


def probabilities(
    image_features: torch.Tensor, classifier: torch.Tensor, logit_scale: float
) -> torch.Tensor:
    """Return the class probabilities, float32 (B, C).

    Args:
        image_features: (B, D), normalised.
        classifier: (C, D), normalised.
        logit_scale: factor on cosines, the inverse of a temperature.
    """
    return (logit_scale * image_features.float() @ classifier.float().T).softmax(dim=-1)
