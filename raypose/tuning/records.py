"""What a search leaves behind, and whether one is finished: read without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NotRequired

from typing_extensions import TypedDict

from raypose import storage
from raypose.config import Config, load, read_stored

__all__ = ["METRIC", "TRIALS", "WINNER", "SearchResult", "TrialRecord", "finished"]

METRIC = "val_balanced_accuracy"
"""By which trials are ranked."""
TRIALS = "trials.json"
WINNER = "winner.yaml"


class TrialRecord(TypedDict):
    """What is kept of a trial: its score is None where it failed."""

    values: dict[str, Any]
    score: float | None
    epochs: NotRequired[int]
    error: NotRequired[str | None]


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
    trials: list[TrialRecord]


def finished(config: Config) -> SearchResult | None:
    """Return the result of a search that has made its trials, or None."""
    url = storage.join(config.storage, "searches", config.search_id)
    recipe, record = storage.join(url, WINNER), storage.join(url, TRIALS)
    if not storage.exists(recipe) or not storage.exists(record):
        return None
    mend = "delete it, and search again"
    trials = read_stored(list[TrialRecord], record, what="the trials of a search", mend=mend)
    scored = [trial for trial in trials if trial["score"] is not None]
    if len(trials) < config.search.num_trials or not scored:
        return None
    best = max(scored, key=lambda trial: trial["score"] or 0.0)
    return SearchResult(
        url=url,
        recipe=recipe,
        config=load(recipe),
        values=best["values"],
        score=best["score"] or 0.0,
        trials=trials,
    )
