"""Metrics where people look for them, beside `metrics.jsonl`: TensorBoard and MLflow.

The first rank writes, once an epoch. What a sink cannot take is said once, and training goes on.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from raypose import storage
from raypose.config import Config, sparse
from raypose.console import status

__all__ = ["FOLDER", "finished", "opened", "register"]

FOLDER = "tensorboard"
RUN_TAG, URL_TAG, VERSION_TAG = "raypose.run", "raypose.url", "raypose.version"
PARAM_CHARS = 500
"""Of a value, as much as any MLflow server takes."""


class _Sink(Protocol):
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the metrics of an epoch."""

    def close(self) -> None:
        """Write out what is held."""


@contextmanager
def opened(
    config: Config, run_url: str, *, step: int, rank: int = 0
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what takes the metrics of each epoch, for all sinks of a recipe.

    Args:
        config: of the run.
        run_url: of the run.
        step: from which it goes on; what was written of later ones does not count.
        rank: of this worker; the first has the sinks.
    """
    with ExitStack() as stack:
        sinks: dict[str, _Sink] = {}
        for name in config.tracking.sinks if rank == 0 else ():
            with _told(name):
                sinks[name] = MAKERS[name](config, run_url, step)
                stack.callback(_closed, name, sinks[name])

        def log(values: dict[str, Any]) -> None:
            numbers = _numbers(values)
            for name in list(sinks):
                with _told(name, sinks):
                    sinks[name].log(numbers, int(values["step"]))

        yield log


def finished(config: Config, run_url: str, metrics: Mapping[str, Any]) -> None:
    """Give sinks the figures of the final model."""
    numbers = _numbers(metrics)
    for name in config.tracking.sinks:
        with _told(name):
            FINISHERS[name](config, run_url, numbers)


def register(
    config: Config, run_url: str, *, name: str, version: str, url: str, metrics: Mapping[str, Any]
) -> None:
    """Enter a release into MLflow's registry, where MLflow is among the sinks.

    Args:
        config: of the run.
        run_url: of the run.
        name: of the release.
        version: of the release, with its hash.
        url: where the release lies.
        metrics: of the release.
    """
    if "mlflow" not in config.tracking.sinks:
        return
    with _told("mlflow"):
        client, run = _client(), _run(config, run_url)
        tags = {VERSION_TAG: version, RUN_TAG: _id(run_url)}
        tags |= {key: f"{value:.4f}" for key, value in _numbers(metrics).items()}
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, tags={URL_TAG: config.storage})
        known = client.search_model_versions(f"name = '{name}'")
        if all(one.tags.get(VERSION_TAG) != version for one in known):
            client.create_model_version(name, source=url, run_id=run.info.run_id, tags=tags)


class _TensorBoard:
    """Event files in ``RUN/tensorboard``; on S3 they are copied there after each epoch."""

    def __init__(self, config: Config, run_url: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.url = storage.join(run_url, FOLDER)
        self.copied = storage.is_s3(run_url)
        self.folder = tempfile.mkdtemp() if self.copied else self.url
        self.writer = SummaryWriter(self.folder, purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            part, _, rest = key.partition("_")
            tag = f"{part}/{rest}" if part in ("train", "val") and rest else f"run/{key}"
            self.writer.add_scalar(tag, value, step)
        self.writer.flush()
        self._copy()

    def close(self) -> None:
        self.writer.close()
        self._copy()
        if self.copied:
            shutil.rmtree(self.folder)

    def _copy(self) -> None:
        for path in Path(self.folder).iterdir() if self.copied else ():
            storage.upload_file(path, storage.join(self.url, path.name))


class _MLflow:
    """A run of MLflow's for a run of ours, found again by its tag."""

    def __init__(self, config: Config, run_url: str, step: int) -> None:
        self.client, self.run_id = _client(), _run(config, run_url).info.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        _log(self.client, self.run_id, values, step)

    def close(self) -> None:
        """Nothing is held."""


def _finish_tensorboard(config: Config, run_url: str, metrics: Mapping[str, float]) -> None:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    final = {f"final/{key}": value for key, value in metrics.items()}
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder, filename_suffix=".final")
        for summary in hparams(_settings(config), final):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]
        for key, value in final.items():
            writer.add_scalar(key, value)
        writer.close()
        for path in Path(folder).iterdir():
            storage.upload_file(path, storage.join(run_url, FOLDER, path.name))


def _finish_mlflow(config: Config, run_url: str, metrics: Mapping[str, float]) -> None:
    client, run_id = _client(), _run(config, run_url).info.run_id
    _log(client, run_id, {f"final/{key}": value for key, value in metrics.items()}, 0)
    client.set_terminated(run_id, "FINISHED")


def _client() -> Any:
    """Return the client of the server that MLFLOW_TRACKING_URI names."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7 take minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def _run(config: Config, run_url: str) -> Any:
    """Return MLflow's run of a run, made with its settings where there is none."""
    client, run_id = _client(), _id(run_url)
    found = client.get_experiment_by_name(config.name)
    experiment = found.experiment_id if found else client.create_experiment(config.name)
    runs = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run_id}'")
    if runs:
        return runs[0]
    from mlflow.entities import Param

    tags = {RUN_TAG: run_id, URL_TAG: run_url}
    made = client.create_run(experiment, run_name=run_id, tags=tags)
    params = [Param(key, value) for key, value in _settings(config).items()]
    client.log_batch(made.info.run_id, params=params)
    return made


def _log(client: Any, run_id: str, values: Mapping[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, step) for key, value in values.items()]
    client.log_batch(run_id, metrics=metrics)


def _settings(config: Config) -> dict[str, str]:
    """Return what a recipe sets, by dotted keys, as text."""
    found: dict[str, str] = {"seed": str(config.seed)}

    def add(place: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                add(f"{place}.{key}" if place else str(key), inner)
        else:
            found[place.replace("/", "-")] = str(value)[:PARAM_CHARS]

    add("", {key: value for key, value in sparse(config).items() if key not in ("search", "serve")})
    return found


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _id(run_url: str) -> str:
    return run_url.rpartition("/")[2]


def _closed(name: str, sink: _Sink) -> None:
    with _told(name):
        sink.close()


@contextmanager
def _told(name: str, sinks: dict[str, _Sink] | None = None) -> Iterator[None]:
    """Say what a sink could not take, and take it out of those in use; nothing else ends of it."""
    try:
        yield
    except Exception as error:
        if sinks:
            sinks.pop(name)
        line = " ".join(str(error).split())[:160]
        told = f"tracking.sinks: {name}: {line}; metrics.jsonl has all figures"
        status(told, level="warning")


MAKERS: Mapping[str, Callable[[Config, str, int], _Sink]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
}
FINISHERS = {"tensorboard": _finish_tensorboard, "mlflow": _finish_mlflow}
