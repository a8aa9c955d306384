"""From a finished run to a release."""

from __future__ import annotations

import tempfile
from pathlib import Path

from raypose import storage, training
from raypose.config import Config
from raypose.errors import TrainError
from raypose.releases import registry
from raypose.releases.predictor import write_release
from raypose.training import finish, provenance

__all__ = ["publish"]


def publish(config: Config) -> registry.Release:
    """Make a release of a finished run's final model.

    Raises:
        TrainError: where the run is not finished.
    """
    result = training.finished(config)
    if result is None:
        raise TrainError(f"{config.run_id}: not finished; run: raypose train with the same recipe")
    origin = storage.read_json(storage.join(result.url, provenance.PROVENANCE))
    end = storage.read_json(storage.join(finish.url_of(result.url), finish.FINAL))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = storage.download_folder(result.checkpoint, folder / "final")
        write_release(source, folder / "release", config, result.metrics, {**origin, "final": end})
        return registry.publish(config.storage, config.name, folder / "release")
