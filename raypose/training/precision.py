"""What towers compute in, and the factor on the loss that keeps small gradients in fp16."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raypose.clip import arithmetic
from raypose.config import TrainConfig

__all__ = ["LossScale", "dtype_of"]

NAMED = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}
GROWTH_STEPS = 2000
"""Finite steps in a row after which the factor is tried twice as large."""


def dtype_of(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the type of autocast; None for none. Where a GPU has no bf16, such as a T4, fp16."""
    if config.precision == "bf16" and device.type == "cpu" and not arithmetic.low(device):
        return None
    if config.precision != "auto":
        return NAMED[config.precision]
    if device.type != "cuda":
        return None
    return torch.bfloat16 if arithmetic.has_bf16(device) else torch.float16


@dataclass
class LossScale:
    """A power of two on the loss, as large as gradients in fp16 bear.

    Source: Micikevicius et al., 2018 (mixed precision training), section 3.2.

    Attributes:
        factor: on the loss, and so on all gradients.
        good_steps: finite ones since it changed.
    """

    factor: float = 2.0**16
    good_steps: int = 0

    def update(self, *, finite: bool, factor: float | None = None) -> None:
        """Take in whether the gradients of a step were finite.

        Args:
            finite: whether they were.
            factor: that the step had, where it may be an older one: of the present one it then
                says nothing.
        """
        if factor not in (None, self.factor):
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.factor /= 2
        elif self.good_steps == GROWTH_STEPS:
            self.factor, self.good_steps = 2 * self.factor, 0
