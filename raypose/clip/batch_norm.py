"""BatchNorm layers of a model: which there are, and when their statistics stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["freeze", "frozen", "layers"]


def freeze(model: nn.Module, *, every: bool = True) -> None:
    """Put BatchNorm layers into evaluation mode, so that batches leave their statistics alone.

    Args:
        model: of any kind.
        every: all of them; else those whose weights do not learn.
    """
    for module in layers(model):
        if every or (module.weight is not None and not module.weight.requires_grad):
            module.eval()


def layers(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorm layers of a model."""
    kind = nn.modules.batchnorm._BatchNorm
    return [module for module in model.modules() if isinstance(module, kind)]


@contextmanager
def frozen(model: nn.Module, *, when: bool = True) -> Iterator[None]:
    """Have BatchNorm layers use and keep the statistics that they have while the block runs."""
    learning = [module for module in layers(model) if module.training] if when else []
    for module in learning:
        module.eval()
    try:
        yield
    finally:
        for module in learning:
            module.train()
