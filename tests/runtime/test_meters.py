"""What a run and a search tell: to Prometheus, at a node of a real Ray, and in lines on stderr."""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import ray
from support.commands import read
from support.patience import until

import raypose
from raypose import config, training
from raypose.config import Config
from raypose.runtime import meters
from raypose.runtime.meters import METERS, Meters, exported
from raypose.training import tracking
from raypose.training.costs import added
from raypose.tuning import records

Series = dict[str, list[tuple[dict[str, str], float]]]


def scrape() -> Series:
    """Return name → labels and value of each series at the node of this process."""
    (node,) = [each for each in ray.nodes() if each["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: Series = {}
    with urllib.request.urlopen(url, timeout=30) as answer:
        for line in answer.read().decode().splitlines():
            match = re.fullmatch(r"(ray_\w+)\{(.*)\} (\S+)", line)
            if match:
                labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
                found.setdefault(match[1], []).append((labels, float(match[3])))
    return found


def hold(checked: Callable[[Series], None]) -> None:
    """Look until what is asserted of a scrape holds: Ray hands values on now and then, singly."""
    failed: list[Exception] = []

    def holds() -> bool:
        try:
            checked(scrape())
        except (OSError, AssertionError, ValueError) as error:
            failed[:] = [error]
            return False
        return True

    try:
        until(holds, every_s=1.0)
    except AssertionError:
        raise failed[-1] from None


def of(found: Series, name: str, **labels: str) -> list[float]:
    return [value for borne, value in found.get(name, ()) if labels.items() <= borne.items()]


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
def test_a_run_is_seen_in_the_scrape(
    recipe: Config, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Soon after it: Ray forgets a value that is not told again for twenty seconds."""
    result = training.train(recipe)
    lines = read(capsys)
    run = {"run": result.run_id}
    last = tracking.read(f"{result.url}/metrics.jsonl")[-1]

    def checked(found: Series) -> None:
        told = {name: of(found, f"ray_raypose_train_{name}", **run)
                for name in ("epoch", "progress", "loss", "images_per_s", "data_wait", "val_score",
                             "bad_images", "learning_rate", "gradient_norm")}  # fmt: skip
        assert (told["epoch"], told["progress"], told["bad_images"]) == ([2.0], [1.0], [0.0])
        keys = {"loss": "train_loss", "val_score": "val_balanced_accuracy"}
        for name in ("loss", "val_score", "images_per_s", "data_wait"):
            (value,) = told[name]
            assert math.isclose(value, last[keys.get(name, name)], rel_tol=1e-6), name
        assert told["gradient_norm"] > [0.0]
        (images,) = of(found, "ray_raypose_train_images_total", **run)
        assert round(images) == 2 * 96
        assert of(found, "ray_raypose_train_checkpoint_s_count", **run) == [2.0]
        assert of(found, "ray_raypose_train_epoch_s_count", **run) == [2.0]
        (read,) = of(found, "ray_raypose_train_bytes_read_total", **run)
        assert read == result.metrics["bytes_read"]
        held_gpu = result.metrics["gpu_hours"] > 0  # what is none is not counted
        for name in METERS:
            if name.startswith("raypose_train") and (name != "raypose_train_gpu_hours" or held_gpu):
                assert any(of(found, each, **run) for each in exported(name)), name

    hold(checked)
    epochs = [line for line in lines if re.match(r"epoch \d/2 ", line["message"])]
    assert len(epochs) == 2
    assert {line["run"] for line in lines} == {result.run_id}


@pytest.mark.usefixtures("as_json")
def test_a_search_is_seen_in_the_scrape(
    recipe: Config, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "space": {"optim.learning_rate": {"choice": [1e-3, 1e-4]}}, "num_trials": 2,
        "max_concurrent": 1, "finalists": 0, "grammars": 0, "reduction_factor": 0,
    }  # fmt: skip
    made = config.override(recipe, {"search": settings, "optim.epochs": 1})
    result = raypose.search(made)
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
