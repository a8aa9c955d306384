from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from support.contexts import InMemory, batch, recipe

from raypose import storage
from raypose.clip import model, zeroshot
from raypose.config import Config
from raypose.training import checkpoint, finish, loop


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
    assert made == pytest.approx(theirs.x, rel=1e-3)
    url = str(tmp_path / "run")
    trained(recipe(**{"data.val": "memory"}), url)
    end = storage.read_json(f"{url}/final/final.json")
    assert end["metrics"]["val_nll"] <= end["uncalibrated_val_nll"] + 1e-6
    kept = load_file(tmp_path / "run" / "final" / "classifier.safetensors")
    assert float(kept["logit_scale"]) == pytest.approx(end["logit_scale"], rel=1e-6)
    np.testing.assert_allclose(kept["text_features"].norm(dim=1), 1, atol=1e-5)
