"""Steps are true at the bounds of every setting, without some pictures, and with odd towers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import annotated_types
import pytest
import torch
import torch.nn.functional as F
from support.contexts import InMemory, batch, full, recipe, spread
from support.models import COCA, NORMED

from raypose import config, storage
from raypose.clip import batch_norm, model
from raypose.clip.augment import copy_size
from raypose.clip.towers import share_buffers, unused
from raypose.config import Config
from raypose.data import Batch
from raypose.errors import ConfigError, TrainError
from raypose.evaluation import fewshot
from raypose.training import checkpoint, epochs, finish, loop, optim
from raypose.training.saver import saving
from raypose.training.state import EpochProgress
from raypose.training.trainer import Trainer

NORMAL = {"model.backbone": "normed", "model.architectures": {"normed": NORMED}}
PLAIN = {"augment.enabled": False, "data.max_bad_fraction": 1.0}
SECTIONS = ("", "data", "model", "augment", "loss", "optim", "train")


def prepare(changes: dict[str, Any], *, num_rows: int = 8) -> Trainer:
    made = recipe(**changes)
    trainer, _ = loop.prepare(made, InMemory([]), run_url="/nowhere", num_rows=num_rows)
    trainer.set_training()
    return trainer


def bounds() -> list[tuple[str, Any]]:
    """Each setting of a run that has an end, at that end."""
    found: list[tuple[str, Any]] = []
    for section in SECTIONS:
        kind: Any = type(getattr(Config(), section)) if section else Config
        for name, field in kind.model_fields.items():
            whole = int in {field.annotation, *get_args(field.annotation)}
            union = get_origin(field.annotation) in (Union, UnionType)
            inner = [
                one
                for part in get_args(field.annotation)
                if union
                for one in getattr(part, "__metadata__", ())
            ]
            for rule in [*field.metadata, *inner]:
                key = f"{section}.{name}" if section else name
                rules = list(rule) if isinstance(rule, annotated_types.Interval) else [rule]
                for one in rules:
                    edge = next(
                        (
                            getattr(one, word)
                            for word in ("ge", "gt", "le", "lt")
                            if getattr(one, word, None) is not None
                        ),
                        None,
                    )
                    if edge is None:
                        continue
                    strict = isinstance(one, annotated_types.Gt | annotated_types.Lt)
                    if strict:
                        up = isinstance(one, annotated_types.Gt)
                        edge = (
                            edge + (1 if up else -1)
                            if whole
                            else math.nextafter(edge, math.inf if up else -math.inf)
                        )
                    found.append((key, edge))
    return found


APART = {"data.max_pixels", "data.shuffle_rows", "data.cache_bytes", "model.image_weights"}
"""Settings that no step sees."""


def test_bounds_are_found() -> None:
    found = bounds()
    assert ("seed", 0) in found
    assert ("seed", 2**31 - 1) in found
    assert ("augment.min_area", 1) in found
    assert len(found) > 25


@pytest.mark.parametrize(("key", "value"), bounds(), ids=lambda one: f"{one}")
def test_a_step_at_the_bounds_of_every_setting(key: str, value: Any) -> None:
    if key in APART:
        pytest.skip("no step sees it")
    more = {"optim.method": "lora"} if key.startswith("optim.lora") else {}
    trainer = prepare({key: value, **more}, num_rows=4)
    outcome = trainer.train_step(batch([0, 1, 2, 3]), epoch=0)
    assert outcome is not None
    assert math.isfinite(outcome[0])
    for name, weight in trainer.clip.model.state_dict().items():
        assert torch.isfinite(weight.float()).all(), name


def test_decay_rates_of_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.betas"):
        recipe(**{"optim.betas": [0.9, 1.0]})
    trainer = prepare({"optim.betas": [0.0, math.nextafter(1, 0)]}, num_rows=4)
    trainer.train_step(batch([0, 1, 2, 3]), epoch=0)
    assert torch.isfinite(trainer.clip.model.visual.proj).all()


def test_draws_differ_by_seed_step_and_rank() -> None:
    seeds = {
        optim.step_seed(seed, step, rank)
        for seed in (0, 1, 20241125, 2**31 - 1)
        for step in (0, 1, 10**7)
        for rank in (0, 1, 999)
    }
    assert len(seeds) == 36
    assert all(0 <= seed < 2**63 for seed in seeds)


def statistics(trainer: Trainer) -> torch.Tensor:
    layers = batch_norm.layers(trainer.clip.model)
    return torch.cat(
        [layer.running_mean.clone() for layer in layers if layer.running_mean is not None]
    )


def without(given: Batch, *rows: int) -> Batch:
    """A batch some of whose pictures are bad: zeros."""
    errors = ["damaged" if row in rows else "" for row in range(len(given))]
    pixels = given.pixels.clone()
    pixels[list(rows)] = 0
    return Batch(pixels, given.targets, given.ids, errors)


@pytest.mark.parametrize("bad", [(), (1,), (0, 2, 3)])
def test_bad_pictures_do_not_touch_statistics(bad: tuple[int, ...]) -> None:
    whole = batch([0, 1, 2, 3, 4, 5])
    first, second = prepare({**NORMAL, **PLAIN}), prepare({**NORMAL, **PLAIN})
    first.train_step(without(whole, *bad), epoch=0)
    good = without(whole, *bad).good()
    second.train_step(good, epoch=0)
    assert torch.equal(statistics(first), statistics(second))


@pytest.mark.parametrize("accumulate", [1, 4, 8])
def test_parts_without_pictures_do_not_touch_statistics(accumulate: int) -> None:
    """Three pictures in eight parts: each is alone, and has no spread; five parts are empty."""
    trainer = prepare({**NORMAL, **PLAIN, "optim.accumulate": accumulate})
    before = statistics(trainer)
    trainer.train_step(batch([0, 1, 2]), epoch=0)
    assert torch.equal(statistics(trainer), before) == (accumulate > 1)


@pytest.mark.parametrize("changes", [{}, {"loss.label_smoothing": 0.1, "captions.preset": "photo"}])
def test_captions_are_encoded_once_for_all_parts(changes: dict[str, Any]) -> None:
    gradients, calls = [], []
    for parts in (1, 3):
        trainer = prepare({"optim.accumulate": parts, "augment.enabled": False, **changes})
        tower = trainer.clip.model.transformer
        count = [0]
        tower.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        trainer.optimizer.step = lambda: None
        trainer.train_step(batch([0, 1, 2, 3, 4, 5, 6, 7]), epoch=0)
        named = trainer.clip.model.named_parameters()
        length = trainer.gradient_norm
        gradients.append({name: p.grad / length for name, p in named if p.grad is not None})
        calls.append(count[0])
    assert calls[0] == calls[1] > 0
    assert gradients[0].keys() == gradients[1].keys()
    assert any("transformer" in name and not name.startswith("visual") for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_no_more_parts_are_taken_than_there_are_pictures() -> None:
    """Each empty one would cost a turn: a billion of them would be waited for without a word."""
    weights = []
    for parts in (8, 10**12):
        trainer = prepare({**PLAIN, "optim.accumulate": parts, "optim.batch_size": 8})
        trainer.train_step(batch([0, 1, 2, 3, 4, 5, 6, 7]), epoch=0)
        weights.append(trainer.clip.model.visual.proj.detach())
    assert torch.equal(*weights)


def test_a_step_of_one_picture() -> None:
    """Its last map is one pixel, of which BatchNorm cannot take a spread."""
    trainer = prepare({**NORMAL, **PLAIN})
    before = statistics(trainer)
    outcome = trainer.train_step(batch([0]), epoch=0)
    assert outcome is not None
    assert math.isfinite(outcome[0])
    assert torch.equal(statistics(trainer), before)
    assert all(layer.training for layer in batch_norm.layers(trainer.clip.model))


def ranks_with_unequal_shares() -> dict[str, torch.Tensor]:
    shares = [[batch([0, 1, 2]), batch([3, 4, 5])], [batch([6, 7, 8])]]
    context = InMemory([])
    config = recipe(**NORMAL, **PLAIN)
    context.given = shares[context.rank]
    trainer, _ = loop.prepare(config, context, run_url="/nowhere", num_rows=9)
    epochs.train(trainer, EpochProgress())
    share_buffers(trainer.clip.model, world_size=context.world_size)
    return {name: value.clone() for name, value in trainer.clip.model.named_buffers()}


def test_ranks_validate_with_the_same_statistics() -> None:
    one, other = spread(ranks_with_unequal_shares)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_gradient_that_is_not_finite_updates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = prepare({**PLAIN})
    trainer.train_step(batch([0, 1]), epoch=0)
    trainer.clip.model.visual.proj.register_hook(lambda gradient: gradient * math.inf)
    before = full(trainer.clip.model.state_dict())
    assert trainer.ema is not None
    mean = {name: value.clone() for name, value in trainer.ema.mean.items()}
    with pytest.raises(TrainError, match=r"gradient is not finite at step 1 of epoch 1"):
        trainer.train_step(batch([2, 3]), epoch=0)
    for name, value in full(trainer.clip.model.state_dict()).items():
        assert torch.equal(value, before[name]), name
    for name, value in trainer.ema.mean.items():
        assert torch.equal(value, mean[name]), name


def test_a_step_is_told_of_once_the_next_is_under_way() -> None:
    """What is not finite updates nothing, before anyone has read that; the next step may."""
    trainer = prepare({**PLAIN}, num_rows=80)
    trainer.train_step(batch([0, 1]), epoch=0)
    hook = trainer.clip.model.visual.proj.register_hook(lambda gradient: gradient * math.inf)
    before = full(trainer.clip.model.state_dict())
    assert trainer.ema is not None
    mean = {name: value.clone() for name, value in trainer.ema.mean.items()}
    broken = trainer.take_step(batch([2, 3]), epoch=0)
    assert broken is not None
    for kept, now in ((before, full(trainer.clip.model.state_dict())), (mean, trainer.ema.mean)):
        for name, value in now.items():
            assert torch.equal(value, kept[name]), name
    hook.remove()
    whole = trainer.take_step(batch([4, 5]), epoch=0)
    assert whole is not None
    assert not torch.equal(before["visual.proj"], trainer.clip.model.visual.proj)
    with pytest.raises(TrainError, match=r"gradient .* step 1 of epoch 1 .*picture-2, picture-3"):
        trainer.settle(broken)
    assert math.isfinite(trainer.settle(whole))


def test_gradients_are_clipped_by_their_norm() -> None:
    """By AdamW without its moments, of which the first step keeps signs alone: by their sizes."""
    moments = []
    for limit in (1e9, 0.25):
        trainer = prepare({**PLAIN, "optim.clip_norm": limit})
        trainer.train_step(batch([0, 1, 2, 3]), epoch=0)
        state = trainer.optimizer.state[trainer.clip.model.visual.proj]
        moments.append(state["exp_avg"] / (1 - trainer.config.optim.betas[0]))
    assert trainer.gradient_norm > 0.25
    scale = 0.25 / trainer.gradient_norm
    torch.testing.assert_close(moments[1], moments[0] * scale, rtol=1e-4, atol=1e-8)


def test_an_epoch_reads_of_a_step_one_step_late(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [batch([2 * k, 2 * k + 1]) for k in range(3)]
    trainer = prepare({**PLAIN})
    trainer.context.given = given  # type: ignore[attr-defined]
    order: list[str] = []
    take, settle = trainer.take_step, trainer.settle

    def taking(*args: Any, **more: Any) -> Any:
        order.append(f"take {trainer.step}")
        return take(*args, **more)

    def settling(outcome: Any) -> float:
        order.append(f"settle {outcome.step}")
        return settle(outcome)

    monkeypatch.setattr(trainer, "take_step", taking)
    monkeypatch.setattr(trainer, "settle", settling)
    progress = EpochProgress()
    epochs.train(trainer, progress)
    assert order == ["take 0", "take 1", "settle 0", "take 2", "settle 1", "take 3", "settle 2"]
    assert (progress.step, progress.seen) == (3, 6)


def test_no_checkpoint_is_written_after_a_step_that_is_not_finite(tmp_path: Path) -> None:
    """Though the step is read late, what it left behind is not saved before."""
    config = recipe(**PLAIN, **{"train.checkpoint_steps": 1})
    context = InMemory([batch([2 * k, 2 * k + 1]) for k in range(3)])
    trainer, progress = loop.prepare(config, context, run_url=str(tmp_path), num_rows=6)
    tower = trainer.clip.model.visual.proj
    tower.register_hook(lambda gradient: gradient * (math.inf if trainer.step == 1 else 1))
    with (
        pytest.raises(TrainError, match="gradient is not finite at step 1"),
        saving(context, str(tmp_path)) as saver,
    ):
        epochs.train(trainer, progress, saver)
    last = checkpoint.latest(str(tmp_path))
    assert last is not None
    assert last.step == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.learning_rate": 1e39},
        {"optim.learning_rate": 10.0, "optim.weight_decay": 1e38},
        {"optim.learning_rate": 1e39, "train.checkpoint_steps": 1},
        {"optim.learning_rate": 1e39, "optim.ema_decay": 0.0},
    ],
)
def test_weights_that_are_not_finite_are_never_kept(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """A step of finite gradients leads there, and nothing comes after it that would meet them."""
    config = recipe(**PLAIN, **{"optim.epochs": 1, **changes})
    for _ in range(2):  # given again, the run begins again
        context = InMemory([batch([0, 1, 2, 3])])
        with pytest.raises(TrainError, match="weights are not finite after step 0, and no check"):
            loop.train_worker(config, context, run_url=str(tmp_path), num_rows=4)
        assert checkpoint.latest(str(tmp_path)) is None


def test_weights_that_are_not_finite_end_validation() -> None:
    trainer = prepare({**PLAIN, "data.val": "memory"})
    trainer.context.given = [batch([0, 1])]  # type: ignore[attr-defined]
    with torch.no_grad():
        trainer.clip.model.visual.proj.fill_(math.nan)
    with pytest.raises(TrainError, match="probabilities are not finite"):
        trainer.validate()


def test_no_checkpoint_of_a_score_that_is_no_number_is_best(tmp_path: Path) -> None:
    def scored(step: int, score: float | None) -> checkpoint.Checkpoint:
        return checkpoint.Checkpoint(step, step, score, {}, 1, 8)

    found = [scored(1, 0.3), scored(2, math.nan), scored(3, None), scored(4, -math.inf)]
    assert checkpoint.best(found).step == 1
    assert checkpoint.best(found[::-1]).step == 1
    storage.write_json(str(tmp_path / "x.json"), {"a": [math.nan, 1.0], "b": {"c": -math.inf}})
    assert storage.read_json(str(tmp_path / "x.json")) == {"a": [None, 1.0], "b": {"c": None}}


def test_checkpoints_that_were_cut_off_are_cleared_away(tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    context = InMemory([batch(list(range(8)))])
    cut = tmp_path / "run/checkpoints/step-0000000"
    cut.mkdir(parents=True)
    (cut / "open_clip_config.json").write_text("{}")
    loop.train_worker(recipe(), context, run_url=url, num_rows=8)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-0000001"]


def coca_step(changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    trainer = prepare(changes)
    share = [batch([0, 1, 2, 3]), batch([4, 5, 6, 7])][trainer.context.rank]
    for _ in range(2):
        assert trainer.train_step(share, epoch=0) is not None
    return full(dict(trainer.clip.model.named_parameters()))


def test_parameters_that_no_encoder_uses_are_frozen() -> None:
    changes = {**PLAIN, "model.backbone": "coca", "model.architectures": {"coca": COCA}}
    clip = model.build(recipe(**changes).model)
    idle = unused(clip.model, clip.tokenize(["a"]), size=32)
    decoder = {name for name, _ in clip.model.named_parameters() if "text_decoder" in name}
    assert decoder
    assert decoder <= idle
    assert not any(name.startswith("visual.conv1") or name == "logit_scale" for name in idle)
    assert all(value.grad is None for value in clip.model.parameters())
    one, other = spread(coca_step, changes)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", ["clip", "multi_positive", "siglip"])
def test_objectives_that_compare_pictures_want_two(name: str) -> None:
    with pytest.raises(ConfigError, match="compares the pictures of a step"):
        recipe(**{"loss.name": name, "optim.batch_size": 1})


def test_parents_of_a_flat_taxonomy_are_refused() -> None:
    flat = {"name": "flat", "classes": [{"id": f"c{k}", "names": [f"name {k}"]} for k in range(12)]}
    with pytest.raises(ConfigError, match='taxonomy "flat" has no parents'):
        prepare({"loss.parents_weight": 0.5, "data.taxonomy": flat})


def test_weights_that_a_described_trunk_would_fetch_are_refused() -> None:
    vision = {**NORMED["vision_cfg"], "timm_model_pretrained": True}
    changes = {"model.architectures": {"normed": {**NORMED, "vision_cfg": vision}}}
    with pytest.raises(ConfigError, match="timm_model_pretrained is not followed"):
        model.build(recipe(**{**NORMAL, **changes}).model)


def test_shares_that_are_not_whole_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    (_, told), _ = spread(rounded)
    assert told == 6


def rounded() -> tuple[int, int]:
    trainer = prepare({"optim.batch_size": 7})
    return trainer.context.rank, trainer.local_batch_size * trainer.context.world_size


def test_a_uniform_over_whole_numbers_is_refused_before_a_search() -> None:
    space = {"search": {"space": {"optim.batch_size": {"uniform": [8, 16]}}}}
    with pytest.raises(ConfigError, match=r"optim\.batch_size"):
        config.parse_config(space)
    config.parse_config({"search": {"space": {"optim.batch_size": {"integers": [8, 16]}}}})


def test_each_method_has_a_rate_of_its_own() -> None:
    assert recipe(**{"optim.learning_rate": None}).optim.peak_rate == 1e-5
    lora = recipe(**{"optim.learning_rate": None, "optim.method": "lora"})
    assert lora.optim.peak_rate == 2e-4
    assert recipe(**{"optim.method": "lora"}).optim.peak_rate == 1e-3  # as it was asked for
    # a study of few pictures compares methods, each at its own
    assert fewshot.rate(recipe(), "full") == 1e-3
    assert fewshot.rate(recipe(), "lora") == 2e-4
    assert fewshot.rate(recipe(**{"optim.method": "lora"}), "lora") == 1e-3


def test_low_rank_changes_are_as_they_are_asked_for() -> None:
    changes = {
        "optim.method": "lora",
        "optim.lora_targets": "visual.*mlp",
        "optim.lora_alpha": 3,
        "optim.lora_rank": 2,
        "optim.lora_dropout": 0.5,
    }
    trainer = prepare(changes)
    named = [name for name, value in trainer.clip.model.named_parameters() if value.requires_grad]
    assert all("mlp" in name for name in named if "lora_" in name)
    assert any("lora_" in name for name in named)
    layer = next(m for m in trainer.clip.model.modules() if hasattr(m, "scaling"))
    assert layer.scaling["default"] == 1.5
    assert layer.lora_dropout["default"].p == 0.5
    with pytest.raises(ConfigError, match="no layer is of that name"):
        prepare({**changes, "optim.lora_targets": "nowhere"})
    with pytest.raises(ConfigError, match="no pattern"):
        prepare({**changes, "optim.lora_targets": "("})


def averaged_run(sharding: str, url: str) -> dict[str, Any]:
    """Two steps with a running mean, validated, of which a checkpoint is written."""
    context = InMemory([])
    shares = [[batch([0, 1, 2]), batch([6, 7])], [batch([3, 4, 5]), batch([8, 9])]]
    context.given = shares[context.rank]
    changes = {**PLAIN, "train.sharding": sharding, "data.val": "memory", "optim.epochs": 2}
    made = recipe(**changes)
    loop.train_worker(made, context, run_url=f"{url}/{sharding}", num_rows=10)
    finish.finish(made, context, run_url=f"{url}/{sharding}")
    return context.reports[-1]


def test_sharded_workers_keep_the_mean_of_the_weights(tmp_path: Path) -> None:
    url = str(tmp_path)
    (whole, _), (parted, _) = (
        spread(averaged_run, sharding, url, fresh=True) for sharding in ("ddp", "fsdp")
    )
    for key in ("train_loss", "val_nll", "val_top1", "logit_scale", "gradient_norm"):
        assert parted[key] == pytest.approx(whole[key], rel=1e-4), key
    ddp, fsdp = (model.load(tmp_path / name / "final").model for name in ("ddp", "fsdp"))
    for name, value in ddp.state_dict().items():
        torch.testing.assert_close(fsdp.state_dict()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    start = model.build(recipe().model).model.state_dict()
    assert not torch.allclose(ddp.state_dict()["visual.proj"], start["visual.proj"], atol=1e-5)


def test_training_at_another_size_than_scoring(tmp_path: Path) -> None:
    """A convolutional tower sees pictures of one side in training, of another afterwards."""
    made = recipe(**NORMAL, **{"augment.image_size": 24, "data.val": "memory"})
    side = copy_size(made.augment, 32)
    assert side == 30
    given = batch([0, 1, 2, 3])
    smaller = F.interpolate(given.pixels, (side, side), mode="bicubic", antialias=True)
    given = replace(given, pixels=smaller)
    trainer, _ = loop.prepare(made, InMemory([given]), run_url=str(tmp_path), num_rows=4)
    assert trainer.train_step(given, epoch=0) is not None
    assert trainer._changed(given, epoch=0).shape[-2:] == (24, 24)
    assert trainer.prepared(given).shape[-2:] == (32, 32)
    assert trainer.validate()["val_top1"] >= 0
    with pytest.raises(ConfigError, match=r"image_size=24: the image tower does not take 24"):
        loop.prepare(
            recipe(**{"augment.image_size": 24}),
            InMemory([given]),
            run_url=str(tmp_path / "fixed"),
            num_rows=4,
        )
