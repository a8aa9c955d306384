"""What a search leaves behind, and whether one is finished: read without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypose import storage
from raypose.config import Config, load

__all__ = ["METRIC", "TRIALS", "WINNER", "SearchResult", "finished"]

METRIC = "val_balanced_accuracy"
"""By which trials are ranked."""
TRIALS = "trials.json"
WINNER = "winner.yaml"


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        url: where it lies.
        recipe: location of the winner.
        config: the winner.
        values: its keys of the space.
        score: its validation balanced accuracy.
        trials: of each trial its values, score, epochs and error.
    """

    url: str
    recipe: str
    config: Config
    values: dict[str, Any]
    score: float
    trials: list[dict[str, Any]]


def finished(config: Config) -> SearchResult | None:
    """Return the result of a search that has made its trials, or None."""
    url = storage.join(config.storage, "searches", config.search_id)
    recipe, record = storage.join(url, WINNER), storage.join(url, TRIALS)
    if not storage.exists(recipe) or not storage.exists(record):
        return None
    trials = storage.read_json(record)
    scored = [trial for trial in trials if trial["score"] is not None]
    if len(trials) < config.search.num_trials or not scored:
        return None
    best = max(scored, key=lambda trial: float(trial["score"]))
    return SearchResult(
        url=url,
        recipe=recipe,
        config=load(recipe),
        values=best["values"],
        score=best["score"],
        trials=trials,
    )
