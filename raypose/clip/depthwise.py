"""Depthwise convolutions with a stride, made faster to go back through in bfloat16 on a CPU.

oneDNN takes up to ten times as long for their gradient as for the same without a stride, which is
a quarter of a step of MobileNetV2. The gradient of the input is computed as what it is, too: a
convolution, of the output's gradient with zeros in between, by the kernel turned round. It is the
same to rounding; see benchmarks/depthwise.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Strided", "hasten"]


def hasten(model: nn.Module) -> int:
    """Have a model's depthwise convolutions with a stride go back by the faster way, where it is.

    Names and values of weights stay, and so does what is computed elsewhere than on a CPU, without
    autocast or without gradients.

    Returns:
        How many there are.
    """
    found = [module for module in model.modules() if _fits(module)]
    for module in found:
        module.__class__ = Strided
    return len(found)


def _fits(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d or module.bias is not None:
        return False
    side, stride = module.kernel_size[0], module.stride[0]
    return (
        module.groups == module.in_channels == module.out_channels > 1
        and module.kernel_size == (side, side)
        and side % 2 == 1
        and module.stride == (stride, stride)
        and stride > 1
        and module.padding == (side // 2, side // 2)
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
    )


class Strided(nn.Conv2d):
    """One of them, of an odd kernel with half of it for padding."""

    def _conv_forward(
        self, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        learns = torch.is_grad_enabled() and images.requires_grad and images.ndim == 4
        if not (learns and images.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            stock: torch.Tensor = super()._conv_forward(images, weight, bias)
            return stock
        kind = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            made: torch.Tensor = _Convolution.apply(
                images.to(kind), weight.to(kind), self.stride[0]
            )
            return made if bias is None else made + bias.to(kind)[:, None, None]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride = stride
        return F.conv2d(
            images, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight)
        )

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        stride, padding, groups = ctx.stride, weight.shape[-1] // 2, len(weight)
        of_images = of_weight = None
        if ctx.needs_input_grad[0]:
            spread = torch.zeros_like(images)  # in the layout of the pictures
            spread[:, :, ::stride, ::stride] = gradient
            of_images = F.conv2d(spread, weight.flip(2, 3), padding=padding, groups=groups)
        if ctx.needs_input_grad[1]:
            _, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
                groups, [False, True, False],
            )  # fmt: skip
        return of_images, of_weight, None
