from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.contexts import InMemory, batch, full, recipe, spread

from raypose.clip import arithmetic
from raypose.errors import TrainError
from raypose.training import checkpoint, epochs, loop, precision, saver, state
from raypose.training.trainer import Trainer

BATCHES = [batch([4 * k + j for j in range(4)]) for k in range(3)]


def prepared(url: str, **changes: object) -> Trainer:
    trainer, _ = loop.prepare(recipe(**changes), InMemory(BATCHES), run_url=url, num_rows=12)
    trainer.set_training()
    return trainer


def test_fp16_learns_as_fp32_does(tmp_path: Path) -> None:
    """Gradients are used as they are: clipped by their own norm, and without the factor."""
    half = prepared(str(tmp_path / "a"), **{"train.precision": "fp16"})
    whole = prepared(str(tmp_path / "b"), **{"train.precision": "fp32"})
    assert half.loss_factor == 2.0**16
    half.loss_scale = precision.LossScale(256.0)  # gradients of so small a tower are large
    for given in BATCHES:
        one, two = (trainer.train_step(given, epoch=0) for trainer in (half, whole))
        assert one is not None
        assert two is not None
        assert one[0] == pytest.approx(two[0], rel=2e-2)
        assert half.gradient_norm == pytest.approx(whole.gradient_norm, rel=5e-2)
    for name, value in half.clip.model.named_parameters():
        assert value.dtype == torch.float32, name


def overflowing(folder: str) -> tuple[bool, float, int, float]:
    trainer = prepared(folder, **{"train.precision": "fp16"})
    assert trainer.loss_scale is not None
    trainer.loss_scale.factor = 2.0**60
    before = full(trainer.clip.model.state_dict())
    first = trainer.train_step(BATCHES[trainer.context.rank], epoch=0)
    assert first is not None
    after = full(trainer.clip.model.state_dict())
    same = all(torch.equal(before[name], value) for name, value in after.items())
    factor, step = trainer.loss_scale.factor, trainer.step
    while trainer.gradient_norm == 0:
        trainer.train_step(BATCHES[0], epoch=0)
    return same, factor, step, trainer.loss_scale.factor


@pytest.mark.parametrize("workers", [1, 2])
def test_a_step_that_overflows_is_passed_over_on_all_ranks(tmp_path: Path, workers: int) -> None:
    found = spread(overflowing, str(tmp_path)) if workers == 2 else [overflowing(str(tmp_path))]
    for same, factor, step, end in found:
        assert (same, factor, step) == (True, 2.0**59, 1)
        assert 1 < end < 2.0**40
    assert len({end for *_, end in found}) == 1


def test_two_steps_that_overflow_at_once_make_the_factor_smaller_once(tmp_path: Path) -> None:
    """The second is taken before the first is read, and so by the same factor."""
    trainer = prepared(str(tmp_path), **{"train.precision": "fp16"})
    assert trainer.loss_scale is not None
    trainer.loss_scale.factor = 2.0**60
    taken = [trainer.take_step(given, epoch=0) for given in BATCHES[:2]]
    for outcome in taken:
        assert outcome is not None
        trainer.settle(outcome)
    assert trainer.loss_scale.factor == 2.0**59


def test_steps_that_were_passed_over_are_counted(tmp_path: Path) -> None:
    trainer = prepared(str(tmp_path), **{"train.precision": "fp16", "optim.epochs": 2})
    trainer.context.given = BATCHES  # type: ignore[attr-defined]
    assert trainer.loss_scale is not None
    trainer.loss_scale.factor = 2.0**60
    values = epochs.train(trainer, state.EpochProgress())
    assert (values["skipped_steps"], values["gradient_norm"]) == (3, 0.0)
    trainer.loss_scale.factor = 256.0
    values = epochs.train(trainer, state.EpochProgress(1))
    assert values["skipped_steps"] == 0
    assert values["gradient_norm"] > 0


def test_a_run_of_which_no_step_was_of_use_is_an_error(tmp_path: Path) -> None:
    trainer = prepared(str(tmp_path), **{"train.precision": "fp16", "optim.epochs": 1})
    trainer.context.given = BATCHES  # type: ignore[attr-defined]
    assert trainer.loss_scale is not None
    trainer.loss_scale.factor = 2.0**60
    with pytest.raises(TrainError, match="no step's gradients were finite, so nothing was learned"):
        epochs.train(trainer, state.EpochProgress())


def test_what_no_factor_mends_is_refused(tmp_path: Path) -> None:
    trainer = prepared(str(tmp_path), **{"train.precision": "fp16"})
    assert trainer.loss_scale is not None
    trainer.loss_scale.factor = 1.0
    with torch.no_grad():
        trainer.clip.model.logit_scale.fill_(float("inf"))
    with pytest.raises(TrainError, match=r"not finite at step 0 .* nothing was updated"):
        trainer.train_step(BATCHES[0], epoch=0)


def test_the_factor_grows_after_good_steps_and_travels(tmp_path: Path) -> None:
    scale = precision.LossScale(factor=4.0)
    for _ in range(precision.GROWTH_STEPS):
        scale.update(finite=True)
    assert (scale.factor, scale.good_steps) == (8.0, 0)
    trainer = prepared(str(tmp_path), **{"train.precision": "fp16"})
    trainer.train_step(BATCHES[0], epoch=0)
    trainer.loss_scale = precision.LossScale(32.0, 7)
    with saver.saving(trainer.context, str(tmp_path)) as writer:
        begun = state.EpochProgress(0, 1, norm=2.5, num_norms=3, skipped=2)
        state.save(trainer, begun, None, {}, saver=writer)
    assert prepared(str(tmp_path), **{"train.precision": "fp16"}).loss_scale == trainer.loss_scale
    last = checkpoint.latest(str(tmp_path))
    assert last is not None
    resumed = state.progress_of(trainer, last)
    assert (resumed.norm, resumed.num_norms, resumed.skipped) == (2.5, 3, 2)


def test_which_precision() -> None:
    cpu = torch.device("cpu")
    low = torch.bfloat16 if arithmetic.has_bf16(cpu) else None  # ten times as slow where it has not
    kinds = {"auto": None, "fp32": None, "fp16": torch.float16, "bf16": low}
    for name, dtype in kinds.items():
        assert precision.dtype_of(recipe(**{"train.precision": name}).train, cpu) == dtype
