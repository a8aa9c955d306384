"""BatchNorm layers of a model: which there are, when their statistics stay, and what that spares.

A layer whose statistics stay is an affine map of each channel. A convolution before it may carry it
out by its own weights: one way less, there and back, over what lies between two layers, which on a
CPU costs more than much of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from raypose.clip import depthwise
from raypose.clip.augment import ramp
from raypose.clip.libraries import BatchNormAct2d

__all__ = ["fold", "freeze", "frozen", "layers", "unfold"]

FOLDED = 1e-3
"""By how much, of its length, the feature of a picture may change; rounding comes to some 1e-6."""


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


def fold(model: Any, *, size: int) -> int:
    """Have convolutions carry out the BatchNorm that follows them, while its statistics stay.

    Weights keep their names and values, and learn as before: what is folded is computed at each
    call. A model that would say something else of a picture is left as it was.

    Args:
        model: of open_clip, in any mode.
        size: pixels of a side of what it takes.

    Returns:
        How many layers there are of which that is so, those of an earlier call left out.

    Source: Jacob et al., 2018, section 3.2, without the quantisation.
    """
    if not any(type(module) in _NORMS for module in layers(model.visual)):
        return 0
    before, pairs = _followed(model, size)
    if not pairs:
        return 0
    for convolution, norm in pairs:
        convolution.__class__ = _CONVOLUTIONS[type(convolution)]
        norm.__class__ = _NORMS[type(norm)]
        convolution.norm = (norm,)  # no part of it: in a tuple
    after, _ = _followed(model, size)
    if not (after - before).norm() <= FOLDED * before.norm():
        unfold(model)
        return 0
    return len(pairs)


def unfold(model: nn.Module) -> None:
    """Undo `fold`."""
    for module in model.modules():
        if isinstance(module, (_Folding, _Folded)):
            module.__dict__.pop("norm", None)
            module.__class__ = type(module).__bases__[1]


class _Folding:
    """A convolution that carries out the BatchNorm after it."""

    norm: tuple[Any]

    def forward(self: Any, images: torch.Tensor) -> torch.Tensor:
        (norm,) = self.norm
        if norm.training:
            return cast(torch.Tensor, super().forward(images))  # type: ignore[misc]
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        mean = norm.running_mean if self.bias is None else norm.running_mean - self.bias
        weight = self.weight * factor[:, None, None, None]
        made = self._conv_forward(images, weight, norm.bias - mean * factor)
        return cast(torch.Tensor, made)


class _Folded:
    """A BatchNorm that is carried out already: what is left is the activation that it may hold."""

    def forward(self: Any, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            images = super().forward(images)  # type: ignore[misc]
        elif isinstance(self, BatchNormAct2d):
            images = self.act(self.drop(images))
        return images


class _Conv2d(_Folding, nn.Conv2d):
    pass


class _Strided(_Folding, depthwise.Strided):
    pass


class _BatchNorm2d(_Folded, nn.BatchNorm2d):
    pass


class _BatchNormAct2d(_Folded, BatchNormAct2d):  # type: ignore[misc]
    pass


# classes with names of their own: models are pickled on their way to workers
_CONVOLUTIONS: dict[type, Any] = {nn.Conv2d: _Conv2d, depthwise.Strided: _Strided}
_NORMS: dict[type, Any] = {nn.BatchNorm2d: _BatchNorm2d, BatchNormAct2d: _BatchNormAct2d}


@torch.no_grad()
def _followed(model: Any, size: int) -> tuple[torch.Tensor, list[tuple[Any, Any]]]:
    """Return a picture's features, and each convolution with the one BatchNorm that takes its own.

    Found by what goes from one to the other, as a model's order of layers says nothing of it.
    """
    made: dict[int, tuple[Any, torch.Tensor]] = {}
    found: list[tuple[Any, Any]] = []

    def after(module: Any, _: Any, output: torch.Tensor) -> None:
        made[id(output)] = (module, output)  # held, so that no other gets its id

    def before(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        source = made.get(id(inputs[0]))
        if source:
            found.append((source[0], module))

    hooks = [
        module.register_forward_hook(after)
        for module in model.visual.modules()
        if type(module) in _CONVOLUTIONS
    ]
    hooks += [
        module.register_forward_pre_hook(before)
        for module in model.visual.modules()
        if type(module) in _NORMS and module.affine and module.track_running_stats
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        device = next(model.visual.parameters()).device
        features = model.encode_image(ramp(size, device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    sources, norms = ([id(pair[side]) for pair in found] for side in (0, 1))
    return features, [
        (source, norm)
        for source, norm in found
        if sources.count(id(source)) == norms.count(id(norm)) == 1
    ]
