from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from support.contexts import CLASSES, InMemory, batch, recipe
from support.models import NORMED, TINY

from raypose import captions, storage
from raypose.clip import batch_norm, model, zeroshot
from raypose.clip.towers import Towers
from raypose.config import Config
from raypose.training import checkpoint, finish, loop
from raypose.training.scorer import Scorer


def trained(config: Config, url: str) -> InMemory:
    context = InMemory([batch(list(range(24)))])
    loop.train_worker(config, context, run_url=url, num_rows=24)
    finish.finish(config, context, run_url=url)
    return context


@pytest.fixture
def pretrained(tmp_path: Path) -> Config:
    """A recipe that starts from a saved model."""
    base = recipe()
    model.save(model.build(base.model), tmp_path / "saved")
    changes = {"model.backbone": f"local-dir:{tmp_path}/saved", "data.val": "memory"}
    return recipe(**changes, **{"optim.learning_rate": 3e-3, "optim.epochs": 3})


def test_the_best_share_of_trained_weights_is_kept(pretrained: Config, tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    context = trained(pretrained, url)
    end = storage.read_json(f"{url}/final/final.json")
    assert [tried["alpha"] for tried in end["alphas"]] == [1.0, 0.75, 0.5, 0.25]
    best = max(tried["val_balanced_accuracy"] for tried in end["alphas"])
    chosen = next(tried for tried in end["alphas"] if tried["alpha"] == end["alpha"])
    assert chosen["val_balanced_accuracy"] == best
    assert end["metrics"]["val_balanced_accuracy"] == best
    reports = {report["epoch"]: report for report in context.reports}
    first = end["alphas"][0]
    assert first["val_top1"] == pytest.approx(reports[end["epoch"]]["val_top1"])
    state = checkpoint.best(checkpoint.complete(url))
    after = checkpoint.restore(url, state)[0].model.state_dict()
    before = model.build(pretrained.model).model.state_dict()
    final = model.load(tmp_path / "run" / "final").model.state_dict()
    for name, value in finish.mixed(before, after, end["alpha"]).items():
        torch.testing.assert_close(final[name], value, msg=name)


def test_weights_are_mixed_along_a_line() -> None:
    before = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
    after = {"w": torch.tensor([1.0, 4.0]), "n": torch.tensor(5)}
    made = finish.mixed(before, after, 0.25)
    assert made["w"].tolist() == [0.25, 2.5]
    assert made["n"] == 5


def test_towers_from_nothing_are_not_mixed(tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    trained(recipe(**{"data.val": "memory"}), url)
    end = storage.read_json(f"{url}/final/final.json")
    assert [tried["alpha"] for tried in end["alphas"]] == [1.0]


def test_without_validation_the_last_weights_stay_as_they_are(tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    trained(recipe(), url)
    end = storage.read_json(f"{url}/final/final.json")
    assert "alphas" not in end
    assert end["logit_scale"] == end["trained_logit_scale"]


def test_the_temperature_has_the_least_surprise(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 5, (400,), generator=generator)
    cosines = torch.randn(400, 5, generator=generator) * 0.3 + 0.4 * torch.eye(5)[targets]

    def surprise(scale: float) -> float:
        odds = torch.softmax(scale * cosines.double(), dim=1)
        return -float(odds[torch.arange(400), targets].log().mean())

    made = zeroshot.best_scale(cosines, targets, start=10.0)
    theirs = minimize_scalar(surprise, bounds=(10 / 16, 160), method="bounded")
    assert made == pytest.approx(theirs.x, rel=0.03)  # a prior around 10 draws it up a little
    url = str(tmp_path / "run")
    trained(recipe(**{"data.val": "memory"}), url)
    end = storage.read_json(f"{url}/final/final.json")
    assert end["metrics"]["val_nll"] <= end["uncalibrated_val_nll"] + 1e-6
    kept = load_file(tmp_path / "run" / "final" / "classifier.safetensors")
    assert float(kept["logit_scale"]) == pytest.approx(end["logit_scale"], rel=1e-6)
    np.testing.assert_allclose(kept["text_features"].norm(dim=1), 1, atol=1e-5)


def test_pictures_without_a_mistake_do_not_set_the_temperature() -> None:
    """Where all are right the likelihood grows with the scale for ever."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(120) % 6
    cosines = torch.randn(120, 6, generator=generator) * 0.05 + 0.5 * torch.eye(6)[targets]
    assert (cosines.argmax(1) == targets).all()
    assert zeroshot.best_scale(cosines, targets, start=60.0) == 60.0
    nearly = cosines.clone()
    nearly[0] = nearly[0].flip(0) * 0.6  # one mistake, of little confidence
    assert zeroshot.best_scale(nearly, targets, start=60.0) < 4 * 60


def test_mixed_weights_have_statistics_of_their_own(tmp_path: Path) -> None:
    """BatchNorm's, which are of one model each, are taken anew where two are mixed."""
    normed = {"model.backbone": "normed", "model.architectures": {"normed": NORMED}}
    model.save(model.build(recipe(**normed).model), tmp_path / "before")
    changes = {"model.backbone": f"local-dir:{tmp_path}/before", "data.val": "memory"}
    config = recipe(**changes, **{"train.wise_alphas": [0.5], "optim.learning_rate": 1e-2})
    url = str(tmp_path / "run")
    context = trained(config, url)
    clip, _ = checkpoint.restore(url, checkpoint.complete(url)[-1])
    grammar = captions.load(config.captions)
    scorer = Scorer(config, context, clip, Towers(clip.model), CLASSES, grammar)
    first = batch_norm.layers(clip.model)[0]
    assert first.running_mean is not None
    kept = first.running_mean.clone()
    first.running_mean.add_(5)  # as statistics that are of no pictures
    finish._refresh_statistics(scorer)
    assert not torch.allclose(first.running_mean, kept + 5, atol=1)
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        clip.model.encode_image(scorer.prepared(batch(list(range(24)))))
    torch.testing.assert_close(first.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert not first.training


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, ()),
        ({"optim.frozen_blocks": 3}, ("conv_stem", "bn1", "blocks.0.", "blocks.1.")),
        ({"model.freeze_batch_norm": True}, ("",)),
    ],
    ids=str,
)
def test_statistics_that_training_kept_stay(changes: dict[str, Any], kept: tuple[str, ...]) -> None:
    """Those of a mixed model are taken anew, less what `training` left as it was."""
    vision = {"timm_model_name": "mobilenetv2_035", "timm_pool": "avg", "timm_proj": "linear"}
    tower = {"tiny": {**TINY, "vision_cfg": {**vision, "image_size": 33}}}
    config = recipe(**{"model.architectures": tower, **changes})
    trainer, _ = loop.prepare(
        config, InMemory([batch(list(range(8)))]), run_url="/nowhere", num_rows=8
    )
    trainer.clip.model.eval()  # as `finish` has it
    before = {name: value.clone() for name, value in trainer.clip.model.named_buffers()}
    finish._refresh_statistics(trainer)
    for name, value in trainer.clip.model.named_buffers():
        if not name.endswith("running_mean"):
            continue
        stays = name.removeprefix("visual.trunk.").startswith(kept)
        assert torch.equal(value, before[name]) == stays, name
