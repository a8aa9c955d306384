from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from support.contexts import InMemory, batch, recipe, spread
from support.models import TINY
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from raypose.clip import model
from raypose.clip.towers import Towers, optimizer_state, whole, wrap
from raypose.config import ModelConfig, TrainConfig
from raypose.training import loop


def step(**changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    config = recipe(**{"augment.enabled": False, **changes})
    trainer, _ = loop.prepare(config, InMemory([]), run_url="/nowhere", num_rows=8)
    trainer.set_training()
    outcome = trainer.train_step(batch([0, 1, 2, 3]), epoch=0)
    assert outcome is not None
    named = trainer.clip.model.named_parameters()
    return outcome[0], {name: p.grad for name, p in named if p.grad is not None}


def assert_same_step(changes: dict[str, Any], *, loss: float, atol: float, rtol: float) -> None:
    (kept, first), (again, second) = step(), step(**changes)
    assert again == pytest.approx(kept, abs=loss)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, atol=atol, rtol=rtol, msg=name)


def test_activations_computed_again_give_the_same_step() -> None:
    changes = {"train.activation_checkpointing": True}
    assert_same_step(changes, loss=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.soak  # a C++ compiler is at work for more than a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_towers_give_the_same_step() -> None:
    assert_same_step({"train.compile": True}, loss=1e-4, atol=1e-4, rtol=1e-3)


def gradients(dtypes: list[torch.dtype | None]) -> list[torch.Tensor]:
    """Of a matrix, over two workers that have it in parts."""
    found = []
    for dtype in dtypes:
        clip = model.build(ModelConfig(backbone="tiny", architectures={"tiny": TINY}))
        asked, device = TrainConfig(sharding="fsdp"), torch.device("cpu")
        wrapped = wrap(Towers(clip.model), asked, device=device, world_size=2, dtype=dtype)
        generator = torch.Generator().manual_seed(torch.distributed.get_rank())
        images = torch.randn(4, 3, clip.image_size, clip.image_size, generator=generator)
        features, texts, *_ = wrapped(images, clip.tokenize(["a", "b", "c", "d"]))
        (features * texts).sum().backward()
        found.append(whole(clip.model.visual.transformer.resblocks[0].mlp.c_fc.weight.grad))
    return found


def test_gradients_of_parts_travel_in_bf16_where_they_are_computed_so() -> None:
    dtypes = [None, torch.float16, torch.bfloat16]
    (exact, half, low), again = spread(gradients, dtypes, fresh=True)
    torch.testing.assert_close(half, exact)  # a sum in fp16 would overflow
    torch.testing.assert_close(again[2], low)
    assert low.dtype == torch.float32
    error = ((low - exact).norm() / exact.norm()).item()
    assert 1e-4 < error < 1e-2


def test_the_optimizers_state_is_as_torch_gives_it() -> None:
    trainer, _ = loop.prepare(recipe(), InMemory([]), run_url="/nowhere", num_rows=8)
    trainer.set_training()
    trainer.train_step(batch([0, 1, 2, 3]), epoch=0)
    asked = (trainer.forward, trainer.optimizer)
    theirs = get_optimizer_state_dict(*asked, options=StateDictOptions(full_state_dict=True))
    ours = optimizer_state(*asked)
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    assert ours["state"]
    for name, held in theirs["state"].items():
        assert ours["state"][name].keys() == held.keys()
        assert all(torch.equal(ours["state"][name][key], held[key]) for key in held)
