from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from support.models import TINY

from raypose.clip import model
from raypose.config import ModelConfig, OptimConfig
from raypose.errors import ConfigError
from raypose.training import optim


def tiny() -> torch.nn.Module:
    built = model.build(ModelConfig(backbone="tiny", architectures={"tiny": TINY}))
    made: torch.nn.Module = built.model
    return made


def test_matrices_decay_and_the_rest_does_not() -> None:
    clip = tiny()
    optimizer = optim.build(clip, OptimConfig(weight_decay=0.3, text_scale=0.5))
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    seen = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = (group["weight_decay"], group["scale"])
    assert len(seen) == len(names)
    assert seen["visual.conv1.weight"] == (0.3, 1.0)
    assert seen["visual.proj"] == (0.3, 1.0)
    assert seen["logit_scale"] == (0.0, 1.0)
    assert seen["visual.ln_pre.weight"] == (0.0, 1.0)
    assert seen["visual.class_embedding"] == (0.0, 1.0)
    assert seen["token_embedding.weight"] == (0.0, 0.5)
    assert seen["text_projection"] == (0.3, 0.5)


def test_its_steps_are_those_of_torch() -> None:
    ours, theirs = tiny(), tiny()
    made = optim.build(ours, OptimConfig(learning_rate=1e-2))
    given = {id(one): name for name, one in ours.named_parameters()}
    groups = [
        {**group, "params": [theirs.get_parameter(given[id(one)]) for one in group["params"]]}
        for group in made.param_groups
    ]
    known = torch.optim.AdamW(groups, fused=True)
    for optimizer, clip in ((made, ours), (known, theirs)):
        for step in range(3):
            optimizer.zero_grad(set_to_none=True)
            torch.manual_seed(step)
            pixels, tokens = torch.randn(2, 3, 32, 32), torch.randint(0, 9, (2, 32))
            image, text, scale = clip(pixels, tokens)[:3]
            ((image * text).sum() * scale).backward()
            optimizer.step()
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name


def test_a_locked_text_tower_does_not_move() -> None:
    clip = tiny()
    optimizer = optim.build(clip, OptimConfig(text_scale=0))
    assert not clip.get_parameter("token_embedding.weight").requires_grad
    assert clip.get_parameter("logit_scale").requires_grad
    assert sum(len(group["params"]) for group in optimizer.param_groups) < len(
        list(clip.parameters())
    )


def test_schedule_rises_and_falls() -> None:
    factors = [optim.schedule(k, num_steps=100, warmup_fraction=0.1) for k in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.01
    assert optim.schedule(0, num_steps=1, warmup_fraction=0.06) == 1.0


def test_rates_and_scale() -> None:
    clip = tiny()
    optimizer = optim.build(clip, OptimConfig(text_scale=0.1))
    optim.set_learning_rate(optimizer, 2.0)
    assert {group["lr"] for group in optimizer.param_groups} == {2.0, 0.2}
    scale = clip.get_parameter("logit_scale")
    with torch.no_grad():
        scale.fill_(9.0)
    optim.clamp_scale(clip, initial=1.0)
    assert scale.item() == pytest.approx(math.log(100))
    with torch.no_grad():
        scale.fill_(9.0)
    optim.clamp_scale(clip, initial=5.0)
    assert scale.item() == pytest.approx(5.0)


def deep() -> torch.nn.Module:
    """Three blocks a tower."""
    towers = {key: {**TINY[key], "layers": 3} for key in ("vision_cfg", "text_cfg")}
    built = model.build(ModelConfig(backbone="deep", architectures={"deep": {**TINY, **towers}}))
    made: torch.nn.Module = built.model
    return made


def test_blocks_are_counted_from_the_output() -> None:
    found = optim.distances(deep())
    assert found["visual.proj"] == found["visual.ln_post.weight"] == 0
    blocks = [f"visual.transformer.resblocks.{k}.mlp.c_fc.weight" for k in range(3)]
    assert [found[name] for name in blocks] == [3, 2, 1]
    assert found["visual.conv1.weight"] == found["visual.class_embedding"] == 4
    assert found["transformer.resblocks.2.mlp.c_fc.weight"] == 1
    assert found["token_embedding.weight"] == found["positional_embedding"] == 4
    assert found["text_projection"] == found["ln_final.weight"] == found["logit_scale"] == 0


def test_blocks_of_timms_towers_are_timms() -> None:
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
    architecture = {**TINY, "vision_cfg": {**vision, "image_size": 160}}
    clip = model.build(ModelConfig(backbone="t", architectures={"t": architecture})).model
    found = optim.distances(clip)
    first, last = (f"visual.trunk.blocks.{k}.mlp.fc1.weight" for k in (0, 5))
    assert found[first] == found[last] + 5
    assert found["visual.trunk.patch_embed.proj.weight"] > found[first]
    assert found["visual.head.proj.weight"] == 0 < found[last]


@pytest.mark.parametrize(("count", "first"), [(0, -1), (1, 0), (2, 1)])
def test_first_blocks_may_stay_as_they_are(count: int, first: int) -> None:
    clip = deep()
    optim.build(clip, OptimConfig(frozen_blocks=count))
    blocks = [f"visual.transformer.resblocks.{k}.mlp.c_fc.weight" for k in range(3)]
    learn = [clip.get_parameter(name).requires_grad for name in blocks]
    assert learn == [k > first for k in range(3)]
    assert clip.get_parameter("visual.conv1.weight").requires_grad == (count == 0)
    assert clip.get_parameter("visual.class_embedding").requires_grad == (count == 0)
    for name in ("visual.proj", "token_embedding.weight", "transformer.resblocks.0.mlp.c_fc.bias"):
        assert clip.get_parameter(name).requires_grad


def test_the_last_block_is_to_learn() -> None:
    with pytest.raises(ConfigError, match=r"optim\.frozen_blocks=3: the image tower has 3 blocks"):
        optim.build(deep(), OptimConfig(frozen_blocks=3))


def test_deeper_blocks_learn_slower() -> None:
    clip = deep()
    optimizer = optim.build(clip, OptimConfig(layer_decay=0.5, text_scale=0.1))
    names = {id(parameter): name for name, parameter in clip.named_parameters()}
    scales = {
        names[id(p)]: group["scale"] for group in optimizer.param_groups for p in group["params"]
    }
    assert scales["visual.proj"] == 1.0
    assert scales["visual.transformer.resblocks.2.mlp.c_fc.weight"] == 0.5
    assert scales["visual.conv1.weight"] == 0.5**4
    assert scales["transformer.resblocks.0.mlp.c_fc.weight"] == pytest.approx(0.1 * 0.5**3)


def test_the_mean_of_weights_is_the_textbook_one() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    ema = optim.Ema(layer, decay=0.9, num_steps=300)
    assert ema.period == 1
    mean = layer.weight.detach().clone()
    for step in range(1, 200):
        with torch.no_grad():
            layer.weight.add_(
                0.1 * torch.randn(1, 2, generator=torch.Generator().manual_seed(step))
            )
        ema.update(step)
        past = min(0.9, (1 + step) / (10 + step))
        mean = past * mean + (1 - past) * layer.weight.detach()
    torch.testing.assert_close(ema.mean["weight"], mean)
    last = layer.weight.detach().clone()
    with ema.swapped():
        torch.testing.assert_close(layer.weight.detach(), mean)
    assert torch.equal(layer.weight, last)
    torch.testing.assert_close(ema.mean["weight"], mean)


def test_long_runs_take_every_eighth_step_into_the_mean() -> None:
    means = []
    for num_steps, period in ((256, 1), (100_000, 8)):
        layer = torch.nn.Linear(1, 1, bias=False)
        ema = optim.Ema(layer, decay=0.99, num_steps=num_steps)
        assert ema.period == period
        for step in range(1, 2001):
            with torch.no_grad():
                layer.weight.fill_(step / 2000)
            ema.update(step)
        means.append(float(ema.mean["weight"]))
    assert means[0] == pytest.approx(1 - 100 / 2000, abs=0.003)  # 1 / (1 - decay) steps behind
    assert means[1] == pytest.approx(means[0], abs=0.003)


class Named(torch.nn.Module):
    """Parameters by name, as towers of other kinds have them."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.visual = torch.nn.Module()
        self.named = names

    def named_parameters(
        self, *_: object, **__: object
    ) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for name in self.named:
            yield name, torch.nn.Parameter(torch.zeros(2, 2))


def test_depths_of_towers_of_other_kinds() -> None:
    names = [
        "visual.conv1.weight", "visual.layer1.0.conv1.weight", "visual.layer4.0.conv1.weight",
        "visual.attnpool.positional_embedding", "visual.attnpool.q_proj.weight",
        "text.token_embedding.weight", "text.cls_emb", "text.ln_final.weight",
        *(f"text.transformer.encoder.block.{k}.layer.0.q.weight" for k in range(3)),
    ]  # fmt: skip
    found = optim.distances(Named(names))
    assert found["visual.attnpool.positional_embedding"] == 0  # it pools: after all blocks
    assert found["visual.attnpool.q_proj.weight"] == 0
    assert found["text.cls_emb"] == found["text.token_embedding.weight"] == 4
    assert [found[name] for name in names[-3:]] == [3, 2, 1]


def test_what_timm_says_is_not_to_decay_does_not() -> None:
    vision = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "",
              "timm_proj": "linear", "image_size": 32}  # fmt: skip
    forms = {"trunk": {**TINY, "vision_cfg": vision}}
    clip = model.build(ModelConfig(backbone="trunk", architectures=forms))
    said = clip.model.visual.trunk.no_weight_decay()
    assert said
    made = optim.build(clip.model, OptimConfig())
    names = {id(value): name for name, value in clip.model.named_parameters()}
    decays = {
        names[id(value)]: group["weight_decay"]
        for group in made.param_groups
        for value in group["params"]
    }
    there = [f"visual.trunk.{name}" for name in said if f"visual.trunk.{name}" in decays]
    assert there
    assert all(decays[name] == 0 for name in there)
    assert any(decay > 0 for decay in decays.values())
