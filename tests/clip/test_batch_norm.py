"""BatchNorm that is carried out by the convolution before it: the same, there and back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import TINY
from torch import nn

from raypose import config
from raypose.clip import batch_norm, depthwise, model

SIDE = 33
TEXT = TINY["text_cfg"]
TOWERS: dict[str, dict[str, Any]] = {
    "timm": {"timm_model_name": "mobilenetv2_035", "timm_model_pretrained": False,
             "timm_pool": "avg", "timm_proj": "linear", "image_size": SIDE},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
}  # fmt: skip
LAYERS = {"timm": 52, "resnet": 3 + 4 * 4}  # whose BatchNorm follows a convolution


def built(name: str) -> model.Clip:
    """A model whose BatchNorm layers have statistics and weights of their own."""
    clip = model.build(
        config.ModelConfig(
            backbone="tiny",
            architectures={"tiny": {"embed_dim": 16, "vision_cfg": TOWERS[name], "text_cfg": TEXT}},
        ),
        seed=0,
    )
    torch.manual_seed(1)
    for norm in batch_norm.layers(clip.model):
        for value, low, high in (
            (norm.running_mean, -0.5, 0.5), (norm.running_var, 0.5, 2),
            (norm.weight, 0.5, 1.5), (norm.bias, -0.5, 0.5),
        ):  # fmt: skip
            nn.init.uniform_(value, low, high)
    return clip


def pictures(clip: model.Clip) -> torch.Tensor:
    size, drawn = clip.image_size, torch.Generator().manual_seed(2)
    kind = next(clip.model.visual.parameters()).dtype
    return torch.randn(4, 3, size, size, generator=drawn, dtype=kind)


def taught(clip: model.Clip) -> dict[str, torch.Tensor]:
    """What a tower says of pictures, and all gradients of it."""
    clip.model.zero_grad()
    features = clip.model.encode_image(pictures(clip))
    (features * torch.linspace(-1, 1, features.shape[1])).sum().backward()
    named = clip.model.visual.named_parameters()
    return {"features": features.detach(), **{k: v.grad for k, v in named if v.grad is not None}}


def exact(clip: model.Clip) -> model.Clip:
    clip.model.double().eval()
    return clip


@pytest.mark.parametrize("name", TOWERS)
def test_features_and_gradients_stay(name: str) -> None:
    clip = built(name)
    expected, names = taught(exact(clip)), list(clip.model.state_dict())
    clip.model.float()
    assert batch_norm.fold(clip.model, size=clip.image_size) == LAYERS[name]
    found = taught(exact(clip))
    assert list(clip.model.state_dict()) == names
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=key)
    assert batch_norm.fold(clip.model, size=clip.image_size) == 0  # they are already


@pytest.mark.parametrize("name", TOWERS)
def test_layers_that_learn_statistics_go_on(name: str) -> None:
    stock, ours = built(name), built(name)
    batch_norm.fold(ours.model, size=ours.image_size)
    for clip in (stock, ours):
        clip.model.train()
    assert torch.equal(taught(ours)["features"], taught(stock)["features"])
    for key, value in stock.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[key], value), key


def test_some_layers_may_learn_while_others_stay() -> None:
    stock, ours = built("timm"), built("timm")
    batch_norm.fold(ours.model, size=ours.image_size)
    for clip in (stock, ours):
        clip.model.train()
        batch_norm.freeze(clip.model.visual.trunk.blocks[:3])
    expected, found = taught(stock)["features"], taught(ours)["features"]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    still = ours.model.visual.trunk.blocks[0][0].bn1
    assert (
        int(still.num_batches_tracked) == 0 < int(ours.model.visual.trunk.bn1.num_batches_tracked)
    )


def test_copies_and_what_is_undone() -> None:
    clip = built("timm")
    clip.model.eval()
    expected = clip.model.encode_image(pictures(clip))
    kinds = [type(module) for module in clip.model.modules()]
    batch_norm.fold(clip.model, size=SIDE)
    other = copy.deepcopy(clip.model)
    for norm in batch_norm.layers(other):
        nn.init.zeros_(norm.bias)  # of the copy alone
    torch.testing.assert_close(clip.model.encode_image(pictures(clip)), expected)
    assert not torch.allclose(other.encode_image(pictures(clip)), expected)
    batch_norm.unfold(clip.model)
    assert [type(module) for module in clip.model.modules()] == kinds
    assert torch.equal(clip.model.encode_image(pictures(clip)), expected)


class Twice(nn.Module):
    """What a convolution makes is also taken past the BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4)})
        nn.init.constant_(self.visual["norm"].running_var, 4.0)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        made = self.visual["conv"](images)
        return (self.visual["norm"](made) + made).mean((2, 3))


def test_a_model_that_would_say_something_else_is_left() -> None:
    twice = Twice().eval()
    assert batch_norm.fold(twice, size=8) == 0
    assert type(twice.visual["conv"]) is nn.Conv2d
    assert type(twice.visual["norm"]) is nn.BatchNorm2d


def test_transformers_are_not_even_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = model.build(config.ModelConfig(backbone="tiny", architectures={"tiny": TINY}), seed=0)
    monkeypatch.delattr(type(clip.model), "encode_image")
    assert batch_norm.fold(clip.model, size=clip.image_size) == 0


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(3, 3, 3, 2, 1, groups=3, bias=False)
        self.visual = nn.Sequential(conv, nn.BatchNorm2d(3))
        nn.init.constant_(self.visual[1].running_var, 4.0)
        nn.init.constant_(self.visual[1].bias, 0.5)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images).flatten(1)


def test_strided_layers_keep_their_faster_way() -> None:
    stock = Strided().eval()
    ours = copy.deepcopy(stock)
    assert (depthwise.hasten(ours), batch_norm.fold(ours, size=9)) == (1, 1)
    made = []
    for one in (stock, ours):
        given = torch.linspace(-1, 1, 2 * 3 * 81).reshape(2, 3, 9, 9).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            features = one.encode_image(given)
        features.float().square().sum().backward()
        made.append((features, given.grad, one.visual[0].weight.grad, one.visual[1].bias.grad))
    for expected, found in zip(*made, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", TOWERS)
def test_a_folded_model_goes_to_workers(name: str) -> None:
    clip = built(name)
    depthwise.hasten(clip.model)
    model.place(clip, torch.device("cpu"), channels_last=True).eval()
    again = pickle.loads(pickle.dumps(clip.model))
    expected = clip.model.encode_image(pictures(clip))
    assert torch.equal(again.encode_image(pictures(clip)), expected)


def test_a_saved_model_is_plain(tmp_path: Path) -> None:
    clip = built("resnet")
    model.place(clip, torch.device("cpu"), channels_last=False).eval()
    model.save(clip, tmp_path)
    again = model.load(tmp_path)
    assert {type(norm) for norm in batch_norm.layers(again.model)} == {nn.BatchNorm2d}
    again.model.eval()
    torch.testing.assert_close(
        again.model.encode_image(pictures(clip)), clip.model.encode_image(pictures(clip)),
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip
