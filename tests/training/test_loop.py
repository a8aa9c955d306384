from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.contexts import InMemory, batch, full, recipe, spread
from support.models import NORMED, TINY
from support.patience import until

from raypose import storage
from raypose.clip import model
from raypose.config import Config
from raypose.data import Batch
from raypose.errors import CaptionError, ConfigError, DataError, TrainError
from raypose.training import checkpoint, epochs, finish, loop, tracking
from raypose.training.prefetcher import Prefetcher
from raypose.training.state import EpochProgress
from raypose.training.trainer import Trainer


def prepare(config: Config, batches: list[Batch], *, num_rows: int = 8) -> Trainer:
    trainer, _ = loop.prepare(config, InMemory(batches), run_url="/nowhere", num_rows=num_rows)
    return trainer


BIASED = {"tiny": {**TINY, "init_logit_bias": -3.0}}
SMOOTH = {"loss.label_smoothing": 0.1}
MORE = {"loss.logit_adjustment": 1.0, "loss.parents_weight": 0.3}
CASES: dict[str, dict[str, Any]] = {
    "class_ce": {},
    "class_ce with everything": {**SMOOTH, **MORE},
    "class_ce in parts": {"optim.accumulate": 2},
    "locked_text": {"optim.method": "locked_text"},
    "lora": {"optim.method": "lora", "optim.lora_rank": 2},
    "clip": {"loss.name": "clip"},
    "multi_positive": {"loss.name": "multi_positive", **SMOOTH},
    "siglip": {"loss.name": "siglip", "model.architectures": BIASED},
}
SHARDED = ("class_ce with everything", "multi_positive", "locked_text", "class_ce in parts")
SPLITS: dict[str, tuple[list[list[int]], tuple[int, ...]]] = {
    "equal": ([[0, 1, 2, 12], [4, 5, 6, 0]], ()),
    "unequal, with bad ones": ([[0, 1, 2, 12, 4], [5, 6, 0]], (2, 5)),
}


def step(parts: list[Batch], changes: dict[str, Any]) -> dict[str, Any]:
    """One step on this rank's part: loss, and the learning weights before and after it."""
    base = {"data.max_bad_fraction": 0.5, "captions.preset": "words", "optim.clip_norm": 1e9}
    config = recipe(**{**base, "augment.enabled": False, **changes})
    context = InMemory([])
    counts = tuple(range(1, 13))
    trainer, _ = loop.prepare(config, context, run_url="/nowhere", num_rows=8, counts=counts)
    trainer.set_training()
    outcome = trainer.train_step(parts[context.rank], epoch=0)
    assert outcome is not None
    named = {name: p for name, p in trainer.clip.model.named_parameters() if p.requires_grad}
    gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
    return {
        "loss": outcome[0],
        "count": outcome[1],
        "gradients": full(gradients),
        "weights": full(named),
    }


def steps(
    cases: dict[str, dict[str, Any]], splits: dict[str, list[Batch]]
) -> dict[tuple[str, str], Any]:
    return {
        (case, split): step(parts, changes)
        for case, changes in cases.items()
        for split, parts in splits.items()
    }


def test_two_workers_take_the_step_of_one() -> None:
    splits = {
        name: [batch(rows, bad=bad) for rows in parts] for name, (parts, bad) in SPLITS.items()
    }
    joined = {
        name: [batch([row for rows in parts for row in rows], bad=bad)]
        for name, (parts, bad) in SPLITS.items()
    }
    sharded = {f"{case}, sharded": {**CASES[case], "train.sharding": "fsdp"} for case in SHARDED}
    whole = steps(CASES, joined)
    for part in spread(steps, {**CASES, **sharded}, splits, fresh=True):
        for (case, split), made in part.items():
            expected = whole[case.removesuffix(", sharded"), split]
            assert made["loss"] == pytest.approx(expected["loss"], abs=1e-5), (case, split)
            assert made["count"] == expected["count"] == 8 - len(SPLITS[split][1])
            assert made["gradients"].keys() == expected["gradients"].keys()
            assert any(value.abs().sum() > 0 for value in expected["gradients"].values())
            for name, gradient in expected["gradients"].items():
                torch.testing.assert_close(
                    made["gradients"][name], gradient, atol=1e-5, rtol=1e-4, msg=f"{case} {name}"
                )
            for name, weight in expected["weights"].items():
                torch.testing.assert_close(made["weights"][name], weight, atol=2e-3, rtol=0)


def test_gradients_over_the_limit_are_scaled_alike() -> None:
    """Clipped, where each worker holds a part of the weights as well."""
    parts = {"equal": [batch(rows) for rows in SPLITS["equal"][0]]}
    cases = {
        "ddp": {"optim.clip_norm": 1e-3},
        "fsdp": {"optim.clip_norm": 1e-3, "train.sharding": "fsdp"},
    }
    one, _ = spread(steps, cases, parts, fresh=True)
    for case in cases:
        gradients = one[case, "equal"]["gradients"].values()
        norm = sum(float(value.square().sum()) for value in gradients) ** 0.5
        assert norm == pytest.approx(1e-3, rel=1e-2)


def epoch_of_unequal_shares(config: Config) -> tuple[int, int, torch.Tensor]:
    shares = [[batch([0, 1]), batch([2, 3]), batch([4, 5, 6])], [batch([7])]]
    context = InMemory([])
    trainer = prepare(config, shares[context.rank])
    values = epochs.train(trainer, EpochProgress())
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
        trainer.train_step(shares[trainer.context.rank], epoch=0)
    except DataError as error:
        found.append(str(error))
    trainer = prepare(recipe(), [])
    if trainer.context.rank == 1:
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
    context = InMemory([batch([0, 1, 2, 3], bad=(1, 3))])
    loop.train_worker(config, context, run_url=str(tmp_path), num_rows=4)
    assert storage.read_json(f"{tmp_path}/quarantine.json") == {
        "picture-1": "damaged",
        "picture-3": "damaged",
    }
    assert [report["num_bad"] for report in context.reports] == [2, 2]


class Killed(InMemory):
    """Dies when asked for a batch after a step was saved: in the middle of the next.

    It waits for that checkpoint, which is written meanwhile.
    """

    def __init__(self, batches: list[Batch], *, after: int, run_url: str) -> None:
        super().__init__(batches)
        self.after, self.run_url = after, run_url
        self.begun = 0

    def check(self, *, first: bool) -> None:
        """Called while the last step begun is computed, or before the first of an epoch."""
        if self.begun - (not first) < self.after:
            return

        def written() -> bool:
            state = checkpoint.latest(self.run_url)
            return state is not None and state.step >= self.after

        until(written, every_s=0.01)
        raise KeyboardInterrupt

    def batches(
        self, split: str, *, batch_size: int, epoch: int, start: int = 0
    ) -> Iterator[Batch]:
        for number, given in enumerate(self.given[start:]):
            self.check(first=number == 0)
            self.begun += 1
            yield given
        self.check(first=False)


def end_of(run_url: str) -> dict[str, torch.Tensor]:
    """All that a run's last checkpoint holds, by name."""
    found = checkpoint.latest(run_url)
    assert found is not None
    clip, training = checkpoint.restore(run_url, found)
    tensors = {f"model.{name}": value for name, value in clip.model.state_dict().items()}
    for part in ("weights", "ema"):
        tensors |= {f"{part}.{name}": v for name, v in training.get(part, {}).items()}
    for name, moments in training["optimizer"]["state"].items():
        tensors |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    return {**tensors, "epoch": torch.tensor(found.epoch), "step": torch.tensor(found.step)}


DROPPED = {"tiny": {**TINY, "vision_cfg": {**TINY["vision_cfg"], "patch_dropout": 0.5}}}


@pytest.mark.parametrize(
    "changes",
    [
        {"model.architectures": DROPPED},
        {"optim.method": "lora", "optim.layer_decay": 0.7},
        {"optim.ema_decay": 0.0, "loss.name": "multi_positive", "optim.text_scale": 0.1},
    ],
    ids=["dropout", "lora", "pairs"],
)
def test_a_run_killed_at_any_step_ends_like_one_that_was_not(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    batches = [batch([4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3]) for k in range(3)]
    base = {"optim.epochs": 2, "optim.batch_size": 4, "train.checkpoint_steps": 1}
    config = recipe(**{**base, **changes})

    def train(context: InMemory, name: str) -> dict[str, torch.Tensor]:
        loop.train_worker(config, context, run_url=str(tmp_path / name), num_rows=12)
        return end_of(str(tmp_path / name))

    whole = train(InMemory(batches), "whole")
    assert whole["step"] == 6
    for after in range(1, 6):
        name = f"killed-{after}"
        with pytest.raises(KeyboardInterrupt):
            train(Killed(batches, after=after, run_url=str(tmp_path / name)), name)
        state = checkpoint.latest(str(tmp_path / name))
        assert state is not None
        assert (state.step, state.epoch_step) == (after, after % 3)
        again = InMemory(batches)
        cut = train(again, name)
        assert cut.keys() == whole.keys()
        for key, value in whole.items():
            assert torch.equal(cut[key], value), (after, key)
        lines = [tracking.read(f"{tmp_path / each}/metrics.jsonl") for each in (name, "whole")]
        for figure in ("train_loss", "gradient_norm"):
            cut_off, uncut = ([line[figure] for line in some] for some in lines)
            assert cut_off == uncut, figure


def left_on(folder: str) -> list[int]:
    """Train on workers of which the last is told before its second step that its node goes."""
    config = recipe(**{"optim.epochs": 1, "optim.batch_size": 4, "data.preserve_order": True})
    context = Leaving(folder)
    own = 4 // context.world_size
    context.given = [batch([4 * k + own * context.rank + j for j in range(own)]) for k in range(3)]
    loop.train_worker(config, context, run_url=folder, num_rows=12)
    return context.steps


class Leaving(InMemory):
    """Notes the step of the last checkpoint where one was made because a node goes."""

    def __init__(self, folder: str) -> None:
        super().__init__([])
        self.folder = folder
        self.asked = 0
        self.steps: list[int] = []

    def leaving(self) -> bool:
        self.asked += 1
        return self.rank == self.world_size - 1 and self.asked >= 2

    def progress(self, event: dict[str, Any]) -> None:
        if "a node is about to go" in event.get("text", ""):
            state = checkpoint.latest(self.folder)
            assert state is not None
            self.steps.append(state.step)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_checkpoint_is_made_before_a_node_goes(tmp_path: Path, world_size: int) -> None:
    """By all ranks together, whichever of them is told, and once."""
    steps = spread(left_on, str(tmp_path / "run"), world_size=world_size)
    assert steps[0] == [2]


def resumed_on(folder: str, sharding: str) -> None:
    """Go on with a run of six steps of 4 pictures on some workers."""
    config = recipe(
        **{"optim.epochs": 2, "optim.batch_size": 4, "train.checkpoint_steps": 1,
           "data.preserve_order": True, "train.sharding": sharding}
    )  # fmt: skip
    context = InMemory([])
    own = 4 // context.world_size
    context.given = [batch([4 * k + own * context.rank + j for j in range(own)]) for k in range(3)]
    loop.train_worker(config, context, run_url=folder, num_rows=12)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_a_run_resumes_on_another_number_of_workers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], sharding: str
) -> None:
    config = recipe(
        **{"optim.epochs": 2, "optim.batch_size": 4, "train.checkpoint_steps": 1,
           "data.preserve_order": True}
    )  # fmt: skip
    batches = [batch([4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3]) for k in range(3)]
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    loop.train_worker(config, InMemory(batches), run_url=whole, num_rows=12)
    killed = Killed(batches, after=2, run_url=cut)
    with pytest.raises(KeyboardInterrupt):
        loop.train_worker(config, killed, run_url=cut, num_rows=12)
    spread(resumed_on, cut, sharding, fresh=sharding == "fsdp")
    told = "resumes on 2 workers where it was 1: the same pictures a step, sums rounded otherwise"
    assert told in capfd.readouterr().err
    expected, end = end_of(whole), end_of(cut)
    state = checkpoint.latest(cut)
    assert state is not None
    assert state.num_workers == 2
    assert expected.keys() == end.keys()
    for key, value in expected.items():
        torch.testing.assert_close(end[key], value, atol=2e-4, rtol=1e-4, msg=key)


def test_a_probe_is_fitted_to_features(tmp_path: Path) -> None:
    given = [batch(list(range(24))), batch(list(range(24, 36)))]
    config = recipe(
        **{"optim.method": "probe", "data.val": "memory", "optim.epochs": 7,
           "optim.probe_penalty": 1e-4}
    )  # fmt: skip
    before = model.build(config.model, seed=config.seed).model.state_dict()
    context = InMemory(given)
    loop.train_worker(config, context, run_url=str(tmp_path), num_rows=36)
    (report,) = context.reports
    assert report["epoch"] == 1
    assert report["val_top1"] > 0.6  # of the same pictures
    finish.finish(config, context, run_url=str(tmp_path))
    after = model.load(Path(finish.url_of(str(tmp_path))))
    for key, value in before.items():
        assert torch.equal(after.model.state_dict()[key], value)
    again = InMemory(given)
    loop.train_worker(config, again, run_url=str(tmp_path), num_rows=36)
    assert again.reports == []


def test_locked_towers_stay_and_adapted_ones_merge(tmp_path: Path) -> None:
    given = [batch(list(range(8)))]
    for method in ("locked_text", "lora"):
        config = recipe(**{"optim.method": method, "data.val": "memory", "optim.epochs": 2})
        before = model.build(config.model, seed=config.seed).model.state_dict()
        url = str(tmp_path / method)
        loop.train_worker(config, InMemory(given), run_url=url, num_rows=8)
        found = checkpoint.latest(url)
        assert found is not None
        after = checkpoint.restore(url, found)[0].model.state_dict()
        moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert before.keys() == after.keys()
        assert "visual.transformer.resblocks.0.mlp.c_fc.weight" in moved
        text = "transformer.resblocks.0.mlp.c_fc.weight"
        assert (text in moved) == (method == "lora")
        assert "token_embedding.weight" not in moved


def test_a_run_stops_where_it_no_longer_gets_better(tmp_path: Path) -> None:
    config = recipe(
        **{"optim.epochs": 9, "optim.learning_rate": 1e-12, "data.val": "memory",
           "train.patience": 2, "train.wise_alphas": []}
    )  # fmt: skip
    context = InMemory([batch(list(range(8)))])
    loop.train_worker(config, context, run_url=str(tmp_path), num_rows=8)
    assert [report["epoch"] for report in context.reports] == [1, 2, 3]


def test_a_step_that_does_not_fit_says_what_to_set() -> None:
    trainer = prepare(recipe(**{"optim.batch_size": 2}), [])
    size = 1 << 50  # what an allocator says of this is what it says of too large a batch
    given = batch([0, 1])

    def too_large(images: torch.Tensor) -> torch.Tensor:
        return torch.empty(size)

    trainer.clip.model.visual.register_forward_pre_hook(lambda _, inputs: too_large(inputs[0]))
    with pytest.raises(
        TrainError, match=r"optim.batch_size=2: a step of 2 pictures .* optim.accumulate=2 or"
    ):
        trainer.train_step(given, epoch=0)


def test_a_batch_is_fetched_once_and_while_a_step_is_computed() -> None:
    given = [batch([0, 1]), batch([2, 3])]
    asked: list[int] = []

    def source() -> Iterator[Batch]:
        for number, one in enumerate(given):
            asked.append(number)
            yield one

    prefetcher = Prefetcher(source(), torch.device("cpu"))
    trainer = prepare(recipe(), [])
    trainer.train_step(prefetcher.take(), epoch=0, meanwhile=prefetcher.fetch)
    assert asked == [0, 1]
    prefetcher.fetch()
    assert prefetcher.take() is given[1]
    assert prefetcher.take() is None
    assert asked == [0, 1]
    assert trainer.train_step(None, epoch=0, meanwhile=pytest.fail) is None


def test_training_learns_and_validation_sees_it(tmp_path: Path) -> None:
    given = [batch(list(range(24)))]
    config = recipe(
        **{"optim.epochs": 80, "optim.learning_rate": 3e-3, "augment.enabled": False,
           "data.val": "memory", "captions.preset": "name"}
    )  # fmt: skip
    trainer = prepare(config, given, num_rows=24)
    first = epochs.train(trainer, EpochProgress())["train_loss"]
    for epoch in range(1, 80):
        last = epochs.train(trainer, EpochProgress(epoch))["train_loss"]
    assert last < 0.5 * first
    assert trainer.validate()["val_top1"] > 0.8


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
    epochs.train(trainer, EpochProgress())
    assert trainer.step == 1


@pytest.mark.parametrize(("grammar", "flip"), [("<name>", True), ("<name>, left side", False)])
def test_pictures_are_mirrored_where_sides_do_not_matter(grammar: str, flip: bool) -> None:
    assert prepare(recipe(**{"captions.grammar": grammar}), []).config.augment.flip is flip


def test_mirror_images_are_not_seen_where_sides_matter() -> None:
    sides = recipe(**{"captions.grammar": "<name>, left side", "model.mirror": True})
    with pytest.raises(ConfigError, match=r"model\.mirror=true: captions or classes tell left"):
        prepare(sides, [])


@pytest.mark.parametrize(
    ("scale", "side"), [(0.5, 16), (1.1, 35), (1.2, 38)], ids=["none", "edge", "wider"]
)
def test_sizes_that_a_tower_does_not_take_are_refused(scale: float, side: int) -> None:
    """TINY has a position for each patch, and drops what fills none; convolutions take any."""
    with pytest.raises(ConfigError, match=rf"model\.scales={scale}: .* take {side} pixels a side"):
        prepare(recipe(**{"model.scales": [scale, 1]}), [])
    with pytest.raises(ConfigError, match=rf"augment\.image_size={side}: the image tower does not"):
        prepare(recipe(**{"augment.image_size": side}), [])
    tower = {"tiny": NORMED}
    prepare(recipe(**{"model.scales": [scale, 1], "model.architectures": tower}), [])


def test_first_blocks_stay_as_they_are_with_their_statistics() -> None:
    vision = {"timm_model_name": "mobilenetv2_035", "timm_pool": "avg", "timm_proj": "linear"}
    tower = {"tiny": {**TINY, "vision_cfg": {**vision, "image_size": 33}}}
    config = recipe(**{"model.architectures": tower, "optim.frozen_blocks": 3})
    trainer = prepare(config, [batch(list(range(8)))])
    before = {name: value.clone() for name, value in trainer.clip.model.state_dict().items()}
    epochs.train(trainer, EpochProgress())
    after = trainer.clip.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    first = ("visual.trunk.conv_stem", "visual.trunk.bn1", "visual.trunk.blocks.0.",
             "visual.trunk.blocks.1.")  # fmt: skip
    assert {name for name in after if name.startswith(first)}
    assert not {name for name in changed if name.startswith(first)}
    for part in ("conv_pw.weight", "bn1.weight", "bn1.running_mean"):
        assert f"visual.trunk.blocks.2.0.{part}" in changed


def test_validation_pictures_are_held_to_the_same_share() -> None:
    config = recipe(**{"data.val": "memory-val", "data.max_bad_fraction": 0.25})
    fine = prepare(config, [batch([0, 1, 2, 3], bad=(1,))])
    assert fine.validate()["val_top1"] >= 0
    mostly_bad = prepare(config, [batch([0, 1, 2, 3], bad=(1, 2, 3))])
    with pytest.raises(DataError, match="memory-val: 3 of 4 pictures are bad, more than"):
        mostly_bad.validate()
