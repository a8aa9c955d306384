from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from conftest import TINY

from raypose import model, optim
from raypose.config import ModelConfig, OptimConfig


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
