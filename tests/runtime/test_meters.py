"""What a run and a search tell: to Prometheus, at a node of a real Ray, and in lines on stderr."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import ray
from support.commands import read
from support.scrapes import Series, hold, of

import raypose
from raypose import config
from raypose.config import Config
from raypose.runtime import meters
from raypose.runtime.meters import METERS, Meters
from raypose.training.costs import added
from raypose.tuning import records


def test_names_and_tags_are_of_the_house() -> None:
    for name, meter in METERS.items():
        assert re.fullmatch(r"raypose_(train|search|serve)_[a-z_]*[a-z]", name)
        whose = {"train": "run", "search": "search", "serve": "release"}
        assert meter.tags[0] == whose[name.split("_")[1]]
        assert not name.endswith("_total")  # Ray puts that behind what is counted
    assert set(meters._EPOCH.values()) < set(METERS)


def test_nothing_is_told_without_ray(monkeypatch: Any) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    made = Meters(run="r")
    made.step({"step": 1, "num_steps": 2, "loss": 1.0, "images_per_s": 3.0})
    made.epoch({"epoch": 1, "train_loss": 1.0}, num_epochs=2)
    assert not made._made


@pytest.mark.usefixtures("as_json")
def test_a_search_is_seen_in_the_scrape(
    recipe: Config, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "space": {"optim.learning_rate": {"choice": [1e-3, 1e-4]}}, "num_trials": 2,
        "max_concurrent": 1, "finalists": 0, "grammars": 0, "reduction_factor": 0,
    }  # fmt: skip
    asked = {"search": settings, "optim.epochs": 1}
    made = config.override(recipe, asked)
    result = raypose.search(recipe, asked)
    lines = read(capsys)
    search = {"search": made.search_id}
    state = {"state": "finished", **search}
    taken = added(trial.costs for trial in records.read_trials(result.url).values())

    def checked(found: Series) -> None:
        assert of(found, "ray_raypose_search_trials", **state) == [2.0]
        for other in ("running", "stopped", "failed"):
            assert of(found, "ray_raypose_search_trials", state=other, **search) == [0.0]
        assert of(found, "ray_raypose_search_asked", **search) == [2.0]
        assert of(found, "ray_raypose_search_epochs", **search) == [2.0]
        assert of(found, "ray_raypose_search_busy_workers", **search) == [0.0]
        assert of(found, "ray_raypose_search_spent_s", **search) > [0.0]
        (hours,) = of(found, "ray_raypose_search_cpu_hours", **search)
        assert hours == taken["cpu_hours"] > 0
        (best,) = of(found, "ray_raypose_search_best_score", **search)
        assert math.isclose(best, result.score, rel_tol=1e-6)
        # a trial in an actor of its own tells nothing: of those there may be ten thousand
        assert not [
            run for run, _ in found.get("ray_raypose_train_epoch", ()) if "trial" in run["run"]
        ]

    hold(checked)
    ended = [line for line in lines if re.match(r"trial \d finished ", line["message"])]
    assert sorted(line["trial"] for line in ended) == [0, 1]
    assert {line["search"] for line in lines} == {made.search_id}
    assert all(line["run"].startswith("tiny-trial-") for line in ended)
