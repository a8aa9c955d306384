"""One trial where it runs: a run trained in a Tune actor, or by a group of Train workers from it.

What would fail again is reported as a failure, so that Tune does not try it again; what may not,
such as a process that died, is raised, and the trial goes on from its checkpoint.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import torch
from ray import tune

from raypose import storage, training
from raypose.config import parse_config
from raypose.console import about
from raypose.errors import RayposeError, ResourceError, StorageError
from raypose.training import heap, runs, tracking, workers
from raypose.tuning.course import point_of
from raypose.tuning.decoded import Decoded
from raypose.tuning.records import METRIC

__all__ = ["ENDED", "FAILED", "NUMBER", "SCORES", "run"]

ENDED = "ended"
FAILED = "failed"
SCORES = "scores"
"""Keys of what is reported: that it ended, why it failed, its scores so far."""
NUMBER = "number"
"""Key of what is given: which trial it is."""
MAY_PASS = (StorageError, ResourceError)
"""Errors that another try may not meet."""


def run(
    given: dict[str, Any],
    *,
    document: dict[str, Any],
    url: str,
    decoded: Decoded,
    kept: dict[str, str],
) -> None:
    """Train one point, from its checkpoint on; it reports as it goes.

    Args:
        given: `NUMBER`, and ``values``, the point.
        document: the search's recipe.
        url: of the search, in whose runs/ it lies.
        decoded: the pictures that trials share.
        kept: backbone → where its weights were kept.
    """
    # a trial that is stopped may still write its checkpoint: the actor is kept that long
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "300"
    _give_back()
    with about(search=url.rpartition("/")[2], trial=given[NUMBER]):
        _train(given["values"], document, url, decoded, kept)


def _give_back() -> None:
    """Give back what the trial before left in this process."""
    gc.collect()  # what one that was stopped held lies in circles of its last exception
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    heap.give_back()


def _train(
    values: dict[str, Any],
    document: dict[str, Any],
    url: str,
    decoded: Decoded,
    kept: dict[str, str],
) -> None:
    try:
        recipe = point_of(parse_config(document), values, url, kept)
        place = runs.locate(recipe).url
        before = _scores(place)
        if before:
            tune.report({SCORES: before})
        if recipe.train.num_workers == 1:
            training.train(recipe, in_process=True, report=tune.report, load=decoded.load)
        else:
            _train_together(recipe, decoded)
        tune.report({SCORES: _scores(place), ENDED: True})
    except MAY_PASS:
        raise
    except (RayposeError, *workers.CERTAIN) as error:
        line = " ".join(str(error).split())
        line = line if len(line) <= 300 else f"{line[:120]} … {line[-170:]}"
        kind = error.called if isinstance(error, RayposeError) else type(error).__name__
        tune.report({FAILED: f"{kind}: {line}"})


def _train_together(recipe: Any, decoded: Decoded) -> None:
    """Train with several workers, whose reports Tune sees as they come."""
    from ray.tune.integration.ray_train import TuneReportCallback

    training.train(recipe, load=decoded.load, callbacks=[TuneReportCallback()])


def _scores(place: str) -> list[tuple[int, float]]:
    """Return (epoch, score) of a run so far: none that was reached before a kill is lost."""
    lines = tracking.read(storage.join(place, tracking.FILE))
    return [(line["epoch"], line[METRIC]) for line in lines if line.get(METRIC) is not None]
