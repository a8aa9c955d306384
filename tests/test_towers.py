from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from surroundings import InMemory, batch, recipe

from raypose import loop


def step(**changes: Any) -> tuple[float, dict[str, torch.Tensor]]:
    config = recipe(**{"augment.enabled": False, **changes})
    trainer, _ = loop.prepare(config, InMemory([]), run_url="/nowhere", num_rows=8)
    trainer.set_training()
    outcome = trainer.train_step(batch([0, 1, 2, 3]), epoch=0)
    assert outcome is not None
    named = trainer.clip.model.named_parameters()
    return outcome[0], {name: p.grad for name, p in named if p.grad is not None}


def test_activations_computed_again_give_the_same_step() -> None:
    (kept, first), (again, second) = step(), step(**{"train.activation_checkpointing": True})
    assert again == pytest.approx(kept, abs=1e-6)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_towers_give_the_same_step() -> None:
    (kept, first), (again, second) = step(), step(**{"train.compile": True})
    assert again == pytest.approx(kept, abs=1e-4)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, atol=1e-4, rtol=1e-3, msg=name)
