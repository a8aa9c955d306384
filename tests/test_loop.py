from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from surroundings import InMemory, batch, recipe, spread

from raypose import checkpoint, loop, storage, tracking
from raypose.config import Config
from raypose.data import Batch
from raypose.errors import CaptionError, DataError, TrainError


def prepare(config: Config, batches: list[Batch], *, num_rows: int = 8) -> loop.Trainer:
    trainer, _ = loop.prepare(config, InMemory(batches), run_url="/nowhere", num_rows=num_rows)
    return trainer


def share(parts: list[Batch], kind: str) -> dict[str, Any]:
    """One step on this rank's part: loss, gradients, and the weights after it."""
    config = recipe(**{"loss.name": kind, "data.max_bad_fraction": 0.5})
    trainer = prepare(config, [])
    outcome = trainer.train_step(parts[trainer.surroundings.rank], epoch=0)
    assert outcome is not None
    named = dict(trainer.clip.model.named_parameters())
    return {
        "loss": outcome[0],
        "count": outcome[1],
        "gradients": {name: p.grad for name, p in named.items() if p.grad is not None},
        "weights": {name: p.detach() for name, p in named.items()},
    }


@pytest.mark.parametrize(
    ("kind", "rows", "bad"),
    [
        ("class_ce", ([0, 1, 2, 3], [4, 5, 6, 7]), ()),
        ("class_ce", ([0, 1, 2, 3, 4], [5, 6, 7]), (2, 5)),
        ("clip", ([0, 1, 2, 3], [4, 5, 6, 7]), ()),
        ("clip", ([0, 1, 2, 3], [4, 5, 6, 7]), (1, 6)),
    ],
)
def test_two_workers_take_the_step_of_one(
    kind: str, rows: tuple[list[int], list[int]], bad: tuple[int, ...]
) -> None:
    (whole,) = [share([batch([*rows[0], *rows[1]], bad=bad)], kind)]
    parts = spread(share, [batch(some, bad=bad) for some in rows], kind)
    for part in parts:
        assert part["loss"] == pytest.approx(whole["loss"], abs=1e-5)
        assert part["count"] == whole["count"] == 8 - len(bad)
        assert part["gradients"].keys() == whole["gradients"].keys()
        for name, gradient in whole["gradients"].items():
            torch.testing.assert_close(part["gradients"][name], gradient, atol=1e-5, rtol=1e-5)
    for name, weight in parts[0]["weights"].items():
        assert torch.equal(weight, parts[1]["weights"][name])


def epoch_of_unequal_shares(config: Config) -> tuple[int, int, torch.Tensor]:
    shares = [[batch([0, 1]), batch([2, 3]), batch([4, 5, 6])], [batch([7])]]
    surroundings = InMemory([])
    trainer = prepare(config, shares[surroundings.rank])
    values = trainer.train_epoch(0)
    assert math.isfinite(values["train_loss"])
    return trainer.step, values["num_bad"], trainer.clip.model.visual.conv1.weight.detach()


@pytest.mark.parametrize("kind", ["class_ce", "clip"])
def test_unequal_shares_do_not_hang(kind: str) -> None:
    (steps, bad, weight), other = spread(epoch_of_unequal_shares, recipe(**{"loss.name": kind}))
    assert steps == other[0] == 3
    assert bad == 0
    assert torch.equal(weight, other[2])


def errors_on_every_rank() -> list[str]:
    """What each rank raises when only rank 1 has something wrong."""
    found = []
    shares = [batch([0, 1]), batch([2, 3], bad=(2,))]
    trainer = prepare(recipe(), [])
    try:
        trainer.train_step(shares[trainer.surroundings.rank], epoch=0)
    except DataError as error:
        found.append(str(error))
    trainer = prepare(recipe(), [])
    if trainer.surroundings.rank == 1:
        with torch.no_grad():
            trainer.clip.model.visual.conv1.weight.fill_(math.nan)
    before = trainer.clip.model.visual.proj.detach().clone()
    try:
        trainer.train_step(batch([4, 5]), epoch=0)
    except TrainError as error:
        found.append(str(error))
    assert torch.equal(before, trainer.clip.model.visual.proj)
    return found


def test_errors_are_raised_on_all_ranks_at_once() -> None:
    one, other = spread(errors_on_every_rank)
    assert len(one) == len(other) == 2
    assert one[0] == other[0]
    assert "memory: 1 of 8 pictures are bad, more than data.max_bad_fraction=0 allows" in one[0]
    assert "first picture-2: damaged" in one[0]
    assert "loss is not finite at step 0 of epoch 1" in one[1]
    assert "picture-4, picture-5" in one[1]


def test_bad_pictures_are_quarantined_by_key(tmp_path: Path) -> None:
    config = recipe(**{"data.max_bad_fraction": 0.5, "optim.epochs": 2})
    surroundings = InMemory([batch([0, 1, 2, 3], bad=(1, 3))])
    loop.train_worker(config, surroundings, run_url=str(tmp_path), num_rows=4)
    assert storage.read_json(f"{tmp_path}/quarantine.json") == {
        "picture-1": "damaged",
        "picture-3": "damaged",
    }
    assert [report["num_bad"] for report in surroundings.reports] == [2, 2]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_run_resumes_after_its_last_checkpoint(tmp_path: Path, dropout: float) -> None:
    batches = [batch([0, 1, 2, 3]), batch([4, 5, 6, 7])]
    vision = {**TINY["vision_cfg"], "patch_dropout": dropout}
    architectures = {"tiny": {**TINY, "vision_cfg": vision}}
    config = recipe(
        **{"optim.epochs": 3, "optim.batch_size": 4, "model.architectures": architectures}
    )

    class Killed(InMemory):
        def batches(self, split: str, *, batch_size: int, epoch: int) -> Any:
            if epoch == 2 and split == "train":
                raise KeyboardInterrupt
            yield from self.given

    with pytest.raises(KeyboardInterrupt):
        loop.train_worker(config, Killed(batches), run_url=str(tmp_path / "cut"), num_rows=8)
    again = InMemory(batches)
    loop.train_worker(config, again, run_url=str(tmp_path / "cut"), num_rows=8)
    assert [report["epoch"] for report in again.reports] == [3]
    whole = InMemory(batches)
    loop.train_worker(config, whole, run_url=str(tmp_path / "whole"), num_rows=8)
    assert len(whole.reports) == 3
    ends = []
    for name in ("cut", "whole"):
        found = checkpoint.latest(str(tmp_path / name))
        assert found is not None
        assert found.step == 6
        ends.append(checkpoint.restore(str(tmp_path / name), found)[0].model.state_dict())
        lines = tracking.read(f"{tmp_path / name}/metrics.jsonl")
        assert [line["epoch"] for line in lines] == [1, 2, 3]
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], atol=0, rtol=0)


def test_training_learns_and_validation_sees_it(tmp_path: Path) -> None:
    given = [batch(list(range(24)))]
    config = recipe(
        **{"optim.epochs": 80, "optim.learning_rate": 3e-3, "augment.enabled": False,
           "data.val": "memory", "captions.preset": "name"}
    )  # fmt: skip
    trainer = prepare(config, given, num_rows=24)
    first = trainer.train_epoch(0)["train_loss"]
    for epoch in range(1, 80):
        last = trainer.train_epoch(epoch)["train_loss"]
    assert last < 0.5 * first
    assert trainer.validate(0)["val_top1"] > 0.8


def test_captions_must_fit_the_text_tower() -> None:
    grammar = " ".join(["a person"] * 16) + " in <name>"
    with pytest.raises(CaptionError, match="tokens where the text tower takes 32"):
        prepare(recipe(**{"captions.grammar": grammar}), [])


def test_bf16_trains_fp32_weights() -> None:
    trainer = prepare(recipe(**{"train.precision": "bf16"}), [])
    before = trainer.clip.model.visual.proj.detach().clone()
    outcome = trainer.train_step(batch([0, 1]), epoch=0)
    assert outcome is not None
    assert math.isfinite(outcome[0])
    assert trainer.clip.model.visual.proj.dtype == torch.float32
    assert (trainer.clip.model.visual.proj != before).float().mean() > 0.9


def test_a_batch_larger_than_the_set_still_steps() -> None:
    trainer = prepare(recipe(**{"optim.batch_size": 512}), [batch([0, 1, 2])], num_rows=3)
    assert trainer.num_steps == 1
    trainer.train_epoch(0)
    assert trainer.step == 1


@pytest.mark.parametrize(("grammar", "flip"), [("<name>", True), ("<name>, left side", False)])
def test_pictures_are_mirrored_where_sides_do_not_matter(grammar: str, flip: bool) -> None:
    assert prepare(recipe(**{"captions.grammar": grammar}), []).config.augment.flip is flip
