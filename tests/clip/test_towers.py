from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from support.contexts import InMemory, batch, recipe

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
