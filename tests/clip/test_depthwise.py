"""Depthwise convolutions with a stride: the same values and gradients, by another way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from raypose.clip import depthwise


@pytest.mark.parametrize("side", [7, 8, 13])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 3)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_those_of_torch(
    side: int, kernel: int, stride: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    stock = nn.Conv2d(6, 6, kernel, stride, kernel // 2, groups=6, bias=False)
    ours = copy.deepcopy(stock)
    assert depthwise.hasten(ours) == 1
    assert ours.state_dict().keys() == stock.state_dict().keys()
    pictures = torch.randn(4, 6, side, side).to(memory_format=layout)
    made = []
    for layer in (stock, ours):
        given = pictures.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(given)
        out.float().square().sum().backward()
        made.append((out, given.grad, layer.weight.grad))
    for expected, found in zip(*made, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
    with torch.no_grad():
        assert torch.equal(ours(pictures), stock(pictures))


def test_others_stay_as_they_are() -> None:
    layers = nn.ModuleList(
        [
            nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False),  # no stride
            nn.Conv2d(6, 6, 3, 2, 1, groups=1, bias=False),  # not by channel
            nn.Conv2d(6, 6, 3, 2, 0, groups=6, bias=False),  # without padding
            nn.Conv2d(6, 6, 3, 2, 1, groups=6),  # with a bias
        ]
    )
    assert depthwise.hasten(layers) == 0
    assert {type(layer) for layer in layers} == {nn.Conv2d}
