"""What the parts of one step have in common: captions, whose features are computed once for all."""

from __future__ import annotations

import torch

__all__ = ["Texts"]


class Texts:
    """Features of a step's captions; the gradient that each part has for them is gathered.

    All parts but the last go back to these features alone. The last goes back through the text
    tower, and takes along what the others gathered: a gradient is a sum.

    Args:
        features: (C, D), as the text tower gives them.
    """

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features
        self._shown = features.detach().float().requires_grad_()

    def of_part(self, *, last: bool) -> torch.Tensor:
        """Return the features for a part."""
        return self.features if last else self._shown

    def gathered(self) -> torch.Tensor | float:
        """Return what is added to the last part's loss: its gradient is that of the others."""
        gradient = self._shown.grad
        return 0.0 if gradient is None else (self.features.float() * gradient).sum()
