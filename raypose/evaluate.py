"""Release × data set → figures, and the way from a finished run to a release.

Pictures are decoded by Ray Data on the cluster and scored here, on this process's GPU if any.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from raypose import data, inputs, metrics, model, registry, storage, train, zeroshot
from raypose.config import Config, DataConfig, ModelConfig
from raypose.errors import DataError, TrainError
from raypose.order import Part
from raypose.predictor import Predictor, write_release
from raypose.shards import read_manifest

__all__ = ["embed", "evaluate", "publish", "table"]

BATCH_SIZE = 64
COLUMNS = ("precision", "recall", "f1")


def evaluate(
    root: str,
    reference: str,
    url: str,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Score a release on a data set.

    Args:
        root: the storage root.
        reference: of the release.
        url: of the shards.
        progress: told (pictures done, in all).

    Returns:
        release, data, bad, num_bad, the figures of `metrics.summarize`, and in `parents` those of
        `metrics.at_parents` for each level of the tree, nearest first.

    Raises:
        DataError: where no picture can be read.
    """
    release = registry.resolve(root, reference)
    with tempfile.TemporaryDirectory() as name:
        predictor = Predictor.load(registry.fetch(release, Path(name)))
    classes, config = predictor.classes, predictor.config
    manifest = inputs.check(url, classes, key="data")
    reader = data.load(
        url,
        classes.index(),
        config.data,
        size=predictor.clip.image_size,
        resize=config.model.resize,
        cache=False,
    )
    odds, targets, done = [], [], 0
    bad: dict[str, str] = {}
    for batch in reader.batches(reader.share(Part()), batch_size=BATCH_SIZE):
        good = [row for row, error in enumerate(batch.errors) if not error]
        bad |= batch.bad
        if good:
            odds.append(predictor.probabilities(batch.pixels[good].numpy()))
            targets.append(batch.targets[good].numpy())
        done += len(batch)
        progress(done, manifest.num_rows)
    if not targets:
        raise DataError(f"{url}: holds no good picture")
    scored = np.concatenate(odds), np.concatenate(targets)
    figures = metrics.summarize(*scored, classes.ids)
    figures["parents"] = [
        metrics.at_parents(*scored, classes.parents(level)) for level in range(len(classes.levels))
    ]
    return {"release": str(release), "data": url, "bad": bad, "num_bad": len(bad), **figures}


def embed(
    url: str,
    config: ModelConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> npt.NDArray[np.float32]:
    """Return the image features of a data set, float32 (N, D), in the order of its shards.

    Each row has length 1, and 0 where the picture cannot be read.
    """
    clip = model.build(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clip.model.to(device).eval()
    labels = read_manifest(url).labels
    reader = data.load(
        url,
        {label: number for number, label in enumerate(labels)},
        DataConfig(),
        size=clip.image_size,
        resize=config.resize,
        cache=False,
    )
    found = []
    for batch in reader.batches(reader.share(Part()), batch_size=BATCH_SIZE):
        with torch.inference_mode():
            features = zeroshot.embed(clip, batch.pixels).cpu()
        good = torch.tensor([not error for error in batch.errors])
        found.append((features * good[:, None]).numpy())
        progress(sum(map(len, found)), reader.num_rows)
    return np.concatenate(found)


def publish(config: Config) -> registry.Release:
    """Make a release of a finished run's best checkpoint.

    Raises:
        TrainError: where the run is not finished.
    """
    result = train.finished(config)
    if result is None:
        raise TrainError(f"{config.run_id}: not finished; run: raypose train with the same recipe")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = storage.download_folder(result.checkpoint, folder / "checkpoint")
        write_release(source, folder / "release", config, result.metrics)
        return registry.publish(config.storage, config.name, folder / "release")


def table(figures: Mapping[str, Any]) -> Table:
    """Lay the figures of an evaluation out for a terminal: totals, and classes worst first."""
    title = (
        f"{figures['release']} on {figures['num_examples']} pictures: "
        f"top-1 {figures['top1']:.3f}, top-5 {figures['top5']:.3f}, "
        f"balanced {figures['balanced_accuracy']:.3f}, nll {figures['nll']:.3f}"
    )
    for level in figures["parents"]:
        title += f"; of {level['num_classes']} parents {level['top1']:.3f}"
    shown = Table("class", "pictures", "precision", "recall", "F1", title=title)
    for column in shown.columns[1:]:
        column.justify = "right"
    seen = [row for row in figures["per_class"] if row["support"]]
    for row in sorted(seen, key=lambda row: row["f1"]):
        cells = ["–" if row[key] is None else f"{row[key]:.3f}" for key in COLUMNS]
        shown.add_row(row["label"], str(row["support"]), *cells)
    return shown
