from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.contexts import InMemory, batch, recipe

from raypose import storage
from raypose.config import Config
from raypose.training import loop, sinks, tracking

BATCHES = [batch([4 * k + j for j in range(4)]) for k in range(2)]
FIGURES = {"val_top1": 0.75, "val_nll": 0.5, "epoch": 2, "note": "text"}


def asked(*names: str, **changes: Any) -> Config:
    given = {"tracking.sinks": names, "data.val": "memory", "optim.epochs": 2, **changes}
    return recipe(**given, name="poses")


def train(config: Config, url: str) -> None:
    loop.train_worker(config, InMemory(BATCHES), run_url=url, num_rows=8)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client of MLflow's own store in a folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlflow")
    return sinks._client()


def events(url: str, folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    storage.download_folder(f"{url}/tensorboard", folder)
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


@pytest.mark.parametrize("place", ["local", "s3"])
def test_tensorboard_shows_each_epoch(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    url = f"{root}/poses-1"
    config = asked("tensorboard")
    train(config, url)
    sinks.finished(config, url, FIGURES)
    found = events(url, tmp_path / "copy")
    lines = tracking.read(f"{url}/metrics.jsonl")
    seen = [(point.step, point.value) for point in found.Scalars("train/loss")]
    assert seen == [(line["step"], pytest.approx(line["train_loss"])) for line in lines]
    assert {"val/top1", "val/balanced_accuracy", "run/learning_rate"} <= {*found.Tags()["scalars"]}
    assert found.Scalars("final/val_top1")[0].value == 0.75
    assert "_hparams_/experiment" in found.summary_metadata or found.PluginTagToContent("hparams")


def test_a_resumed_run_writes_its_epochs_once(tmp_path: Path) -> None:
    url = f"{tmp_path}/poses-1"
    train(asked("tensorboard", **{"optim.epochs": 1}), url)
    train(asked("tensorboard", **{"optim.epochs": 3}), url)
    points = events(url, tmp_path / "copy").Scalars("train/loss")
    assert [point.step for point in points] == [2, 4, 6]


def test_mlflow_has_the_run_its_settings_and_its_release(tmp_path: Path, server: Any) -> None:
    url = f"{tmp_path}/poses-1"
    config = asked("mlflow", **{"optim.learning_rate": 2e-3})
    train(config, url)
    train(config, url)  # finished: the run is found again, and none is made
    sinks.finished(config, url, FIGURES)
    about = {"name": "poses", "version": "v1-0123abcd", "url": "s3://a/b", "metrics": FIGURES}
    sinks.register(config, url, **about)
    sinks.register(config, url, **about)
    experiment = server.get_experiment_by_name("poses").experiment_id
    (run,) = server.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.learning_rate"] == "0.002"
    assert run.data.tags["raypose.run"] == "poses-1"
    assert run.data.metrics["final/val_top1"] == 0.75
    history = server.get_metric_history(run.info.run_id, "train_loss")
    lines = tracking.read(f"{url}/metrics.jsonl")
    assert [(one.step, one.value) for one in history] == [
        (line["step"], line["train_loss"]) for line in lines
    ]
    (version,) = server.search_model_versions("name = 'poses'")
    assert version.source == "s3://a/b"
    assert version.run_id == run.info.run_id
    assert version.tags["raypose.version"] == "v1-0123abcd"
    assert version.tags["val_top1"] == "0.7500"


def test_a_server_that_does_not_answer_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    url = f"{tmp_path}/poses-1"
    train(asked("mlflow", "tensorboard"), url)
    told = capsys.readouterr().err
    assert told.count("tracking.sinks: mlflow: ") == 1
    assert len(tracking.read(f"{url}/metrics.jsonl")) == 2
    assert events(url, tmp_path / "copy").Scalars("train/loss")


def test_sinks_change_no_run() -> None:
    assert asked().run_id == asked("mlflow", "tensorboard").run_id
