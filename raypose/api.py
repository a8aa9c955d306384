"""Raypose in a few lines of Python: what the command line does, by the same names.

    import raypose

    run = raypose.train("recipe.yaml", {"optim.epochs": 3})
    model = raypose.load(raypose.publish("recipe.yaml", {"optim.epochs": 3}))
    found = model.predict(["a.jpg", "b.jpg"])

Each function starts Ray where it needs one and stops it at its end. Where Ray is there already, it
is used and left as it was: ``with runtime.connect(config.ClusterConfig()):`` around several of them
starts it once. What a user can mend is raised as `raypose.RayposeError`; progress is told on
stderr, unless RAYPOSE_QUIET is 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

from raypose import config, evaluation, releases, runtime, training, tuning
from raypose import storage as storages
from raypose.captions import taxonomy
from raypose.config import ClusterConfig, Config
from raypose.console import bar, status, waiting
from raypose.data import inputs, manifests
from raypose.releases.registry import Release
from raypose.training.runs import TrainResult
from raypose.tuning.records import SearchResult

__all__ = ["Recipe", "evaluate", "load", "publish", "search", "train"]

Recipe: TypeAlias = str | Path | Mapping[str, Any] | Config
"""Path or s3:// URL of a YAML file, a dictionary of the same form, or a whole document."""


def load(reference: str | Path | Release, *, storage: str | Path = "") -> releases.Model:
    """Load a release to classify pictures by.

    Args:
        reference: NAME, NAME@ALIAS or NAME:VERSION, a folder or s3:// place that holds a release,
            or what `publish` returned.
        storage: where names are looked up; by default RAYPOSE_STORAGE, else the raypose-data that
            is found from here upwards.

    Raises:
        RegistryError: where there is no such release; it says where it was looked for.
        CheckpointError: where a file of it is missing or damaged.
    """
    return releases.Model.load(reference, storage=storage)


def train(recipe: Recipe, overrides: Mapping[str, Any] | None = None) -> TrainResult:
    """Train a recipe to its end, from its last checkpoint where there is one.

    A run that is finished answers at once. Progress is told on stderr.

    Args:
        recipe: see `Recipe`.
        overrides: dotted key → value: ``{"optim.learning_rate": 3e-5}``.

    Raises:
        RayposeError: for what the user can mend; the run stays as it was.
    """
    settled = _settled(recipe, overrides)
    done = training.finished(settled)
    if done:
        status(f"{done.run_id} is finished already: nothing to train; see {done.url}")
        changed = training.changed_data(settled, done)
        if changed:
            status(changed)
        return done
    inputs.ready(settled)
    with _connected(settled.cluster):
        result = training.train(settled)
        if settled.data.val:
            with waiting("holding it against its baselines"):
                evaluation.hold_up(settled, result)
        return result


def search(recipe: Recipe, overrides: Mapping[str, Any] | None = None) -> SearchResult:
    """Try `search.num_trials` points of `search.space`, and write the best as a recipe.

    A search that is finished answers at once. Train the winner by ``train(result.recipe)``.

    Args:
        recipe: see `Recipe`.
        overrides: dotted key → value: ``{"search.num_trials": 20}``.

    Raises:
        RayposeError: for what the user can mend; finished trials stay.
    """
    settled = _settled(recipe, overrides)
    done = tuning.finished(settled)
    if done:
        status(f"{settled.search_id} is finished already: see {done.url}")
        return done
    inputs.ready(settled)
    with _connected(settled.cluster):
        return tuning.search(settled)


def evaluate(
    model: releases.Model | str | Path | Release,
    data: str | Path,
    *,
    storage: str | Path = "",
    baselines: bool = False,
) -> dict[str, Any]:
    """Score a release on a data set.

    Args:
        model: as `load` returned it, or a reference that `load` takes.
        data: folder or s3:// URL of shards.
        storage: as for `load`.
        baselines: score the model it came from too, by its captions and by a probe, which is
            fitted to the pictures that the release was trained on.

    Returns:
        Figures, with intervals: see `raypose.evaluation.figures`.

    Raises:
        RayposeError: for what the user can mend.
    """
    url = _full(data)
    manifests.read_manifest(url)
    loaded = model if isinstance(model, releases.Model) else load(model, storage=storage)
    with _connected(ClusterConfig()), bar("evaluating") as update:
        return evaluation.evaluate("", loaded, url, with_baselines=baselines, progress=update)


def publish(
    recipe: Recipe,
    overrides: Mapping[str, Any] | None = None,
    *,
    backends: bool | None = None,
) -> Release:
    """Make a release of a finished run's final model; the same again is the same release.

    Args:
        recipe: see `Recipe`; the one that was trained.
        overrides: dotted key → value, as in training.
        backends: whether to find on `data.val` by which backends it may be served on a CPU; by
            default where its image tower has a million parameters and more.

    Raises:
        TrainError: where the run is not finished.
    """
    return evaluation.publish(_settled(recipe, overrides), backends=backends)


def _settled(recipe: Recipe, overrides: Mapping[str, Any] | None) -> Config:
    """Return the whole document of a recipe, its locations absolute."""
    if not isinstance(recipe, str | Path | Mapping | Config):
        raise TypeError(f"recipe: found {recipe!r:.60}; a path or a mapping is wanted")
    if not isinstance(overrides, Mapping | None) or not all(
        isinstance(key, str) for key in overrides or ()
    ):
        raise TypeError(
            f"overrides: found {overrides!r:.60}; a mapping is wanted, as of optim.epochs to 5"
        )
    overrides = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in (overrides or {}).items()
    }
    if isinstance(recipe, str | Path):
        made = config.load(str(recipe), overrides)
    else:
        whole = (
            recipe if isinstance(recipe, Config) else config.parse_config(recipe, where="recipe")
        )
        made = config.override(whole, overrides) if overrides else whole
    if made.storage == Config().storage:
        made = config.override(made, {"storage": storages.default_root()})
    return taxonomy.embedded(config.absolute(made))


@contextmanager
def _connected(cluster: ClusterConfig) -> Iterator[None]:
    with nullcontext() if "ray" in sys.modules else waiting("loading torch and Ray"):
        connect = runtime.connect
    with connect(cluster):
        yield


def _full(location: str | Path) -> str:
    url = str(location)
    return url if storages.is_s3(url) else os.path.abspath(url)
