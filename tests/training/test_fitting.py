"""A step that does not fit is taken in more parts; a tower stands in for a device that is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.contexts import InMemory, batch, full, recipe, spread
from support.models import NORMED

from raypose.training import fitting, loop
from raypose.training.trainer import Trainer

GIVEN = batch(list(range(8)))


def prepared(folder: str, *, room: int, **changes: Any) -> Trainer:
    """A trainer whose image tower has room for so many pictures at a time."""
    context = InMemory([GIVEN])
    trainer, _ = loop.prepare(recipe(**changes), context, run_url=folder, num_rows=8)
    trainer.set_training()

    def check(_: Any, inputs: Any) -> None:
        if len(inputs[0]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer.clip.model.visual.register_forward_pre_hook(check)
    return trainer


@pytest.mark.parametrize(("room", "parts"), [(8, 1), (4, 2), (3, 4), (1, 8)])
def test_parts_are_doubled_until_a_step_fits(
    tmp_path: Path, room: int, parts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = prepared(str(tmp_path), room=room)
    before = full(trainer.clip.model.state_dict())
    random = torch.get_rng_state()
    fitting.fit(trainer)
    assert trainer.config.optim.accumulate == parts
    assert ("does not fit" in capsys.readouterr().err) == (parts > 1)
    assert torch.equal(random, torch.get_rng_state())
    for name, value in trainer.clip.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(value.grad is None for value in trainer.clip.model.parameters())
    whole = prepared(str(tmp_path), room=8)
    ours, theirs = trainer.train_step(GIVEN, epoch=0), whole.train_step(GIVEN, epoch=0)
    assert ours is not None
    assert theirs is not None
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert trainer.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-3)


def test_statistics_stay_as_they_are(tmp_path: Path) -> None:
    normal = {"model.backbone": "normed", "model.architectures": {"normed": NORMED}}
    trainer = prepared(str(tmp_path), room=4, **normal)
    before = full(dict(trainer.clip.model.named_buffers()))
    fitting.fit(trainer)
    for name, value in trainer.clip.model.named_buffers():
        assert torch.equal(value, before[name]), name


def test_what_compares_a_whole_step_is_left_to_say_so(tmp_path: Path) -> None:
    trainer = prepared(str(tmp_path), room=2, **{"loss.name": "clip"})
    fitting.fit(trainer)
    assert trainer.config.optim.accumulate == 1


def one_is_full(folder: str, sharding: str) -> int:
    import torch.distributed as dist

    room = 2 if dist.get_rank() else 8
    trainer = prepared(folder, room=room, **{"train.sharding": sharding})
    fitting.fit(trainer)
    return trainer.config.optim.accumulate


def test_ranks_agree(tmp_path: Path) -> None:
    assert spread(one_is_full, str(tmp_path), "ddp") == [2, 2]
