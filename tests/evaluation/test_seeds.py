from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypose import config, storage, training
from raypose.cli.main import main
from raypose.config import Config
from raypose.evaluation import charts
from raypose.pages import plots
from raypose.training import runs, tracking


def test_a_recipe_over_seeds(
    recipe: Config, cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    storage.write_bytes(str(path), json.dumps(config.sparse(recipe)).encode())
    alone = config.override(recipe, {"seed": 3, "optim.epochs": 2})
    training.train(alone, in_process=True)  # the run of a seed is that of the recipe with it
    capsys.readouterr()
    words = ["train", str(path), "train.seeds=3,5", "optim.epochs=2", "baselines=false", "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["seeds"] == [3, 5]
    first, second = (run["metrics"]["val_top1"] for run in document["runs"])
    figure = document["figures"]["val_top1"]
    assert figure["mean"] == pytest.approx((first + second) / 2)
    assert figure["interval"][0] <= figure["mean"] <= figure["interval"][1]
    for run, seed in zip(document["runs"], (3, 5), strict=True):
        assert storage.read_json(f"{run['url']}/config.json")["seed"] == seed
    found = runs.finished(alone)
    assert found is not None
    assert found.run_id == document["runs"][0]["run_id"]
    page = storage.read_bytes(f"{document['url']}/report.html").decode()
    assert "seed 3" in page
    assert f"{figure['mean']:.4f}" in page
    assert main(words) == 0  # nothing is trained again
    assert "epoch 1/2" not in capsys.readouterr().err
    lines = tracking.read(f"{found.url}/metrics.jsonl")
    for line in lines:
        spent = charts.phases(line)
        assert min(spent.values()) >= 0
        assert spent["computing"] + spent["waiting for pictures"] == pytest.approx(line["train_s"])
    assert plots.svg(charts.time_plot(lines)).count("<svg") == 1


def test_one_seed_has_no_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: {train: nowhere}")
    assert main(["train", str(path), "train.seeds=3"]) != 0
    assert "train.seeds: one seed has no spread" in capsys.readouterr().err
