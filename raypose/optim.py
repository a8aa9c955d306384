"""AdamW over parameter groups, warm-up and cosine decay, and the clamp of the logit scale."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from raypose.config import OptimConfig

__all__ = ["build", "clamp_scale", "schedule", "set_learning_rate"]

NO_DECAY = ("embedding", "logit_scale", "logit_bias", "pos_embed", "cls_token")


def build(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Build the optimiser; parameters whose rate is 0 are frozen and left out.

    Matrices decay; norms, biases, embeddings and the scale do not.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        image = name.startswith("visual.") or name in ("logit_scale", "logit_bias")
        scale = 1.0 if image else config.text_scale
        if scale == 0 or name == "logit_bias":  # a bias alike for all classes changes nothing
            parameter.requires_grad_(False)
            continue
        plain = parameter.ndim < 2 or any(word in name for word in NO_DECAY)
        decay = 0.0 if plain else config.weight_decay
        groups.setdefault((scale, decay), []).append(parameter)
    arguments: list[dict[str, Any]] = [
        {"params": parameters, "scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    return torch.optim.AdamW(arguments, lr=config.learning_rate, betas=config.betas, eps=config.eps)


def schedule(step: int, *, num_steps: int, warmup_fraction: float) -> float:
    """Return the factor on the learning rate, in (0, 1]: a linear rise, then half a cosine.

    Args:
        step: counted from 0.
        num_steps: of the whole run.
        warmup_fraction: share of them in which the rate rises.
    """
    warmup = round(warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def clamp_scale(model: nn.Module, *, initial: float) -> None:
    """Keep the logarithm of the logit scale at or below max(ln 100, where it started)."""
    scale = model.get_parameter("logit_scale")
    with torch.no_grad():
        scale.clamp_(max=max(math.log(100.0), initial))
