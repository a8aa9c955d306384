"""A search as it stands, from its records alone: while it runs or after it, from anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from raypose import storage
from raypose.config import read_stored
from raypose.console import plural
from raypose.data.claims import CLAIM, Claim
from raypose.errors import NotFoundError
from raypose.training.costs import added
from raypose.tuning import records
from raypose.tuning.records import Outcome, Search, State, Trial

__all__ = ["ABSENT", "Overview", "differences", "going", "look", "table_order"]

ABSENT = "not set"
"""What a recipe says of a key that it does not hold."""


@dataclass(frozen=True)
class Overview:
    """A search, its trials, and what it came to.

    Attributes:
        url: where it lies.
        search: what is known of it before its end.
        trials: number → record, in their order.
        outcome: what it came to; None before its end.
        state: running where somebody holds it, finished where it has an outcome, else interrupted.
    """

    url: str
    search: Search
    trials: Mapping[int, Trial]
    outcome: Outcome | None
    state: Literal["running", "finished", "interrupted"]

    @cached_property
    def best(self) -> Trial | None:
        """The winner; before the end the best so far, None where no trial has a score."""
        if self.outcome is not None and self.outcome.number in self.trials:
            return self.trials[self.outcome.number]
        ranked = records.best(self.trials.values())
        return ranked[0] if ranked else None

    @property
    def score(self) -> float | None:
        """Of the best: validation balanced accuracy, in 0..1."""
        return self.best.score if self.best else None

    @cached_property
    def counts(self) -> dict[str, int]:
        """State of a trial → how many, those of which there is none left out."""
        found = Counter(trial.state for trial in self.trials.values())
        return {state: found[state] for state in get_args(State) if found[state]}

    @cached_property
    def hours(self) -> float:
        """Spent on its trials, one after the other: more than by the clock where several ran."""
        return sum(trial.seconds for trial in self.trials.values()) / 3600

    @cached_property
    def costs(self) -> dict[str, float]:
        """What its trials took: see `training.costs.COSTS`."""
        return added(trial.costs for trial in self.trials.values())

    @cached_property
    def epochs(self) -> int:
        """Trained in all trials."""
        return sum(trial.epochs for trial in self.trials.values())

    @property
    def told(self) -> str:
        """Its trials by state, such as ``12 trials: 3 finished, 9 stopped``."""
        parts = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"{plural(len(self.trials), 'trial')}: {parts}" if parts else "no trial yet"

    def summary(self) -> dict[str, Any]:
        """Return what a list says of it."""
        return {
            "search": self.search.id,
            "url": self.url,
            "owner": self.search.owner,
            "began": self.search.began,
            "state": self.state,
            "counts": self.counts,
            "best": self.best.number if self.best else None,
            "score": self.score,
            "epochs": self.epochs,
            "hours": round(self.hours, 4),
            **self.costs,
        }

    def document(self) -> dict[str, Any]:
        """Return all that is known of it, with all trials."""
        return {
            **self.summary(),
            "attempt": self.search.attempt,
            "notes": self.search.notes,
            "outcome": self.outcome.model_dump() if self.outcome else None,
            "trials": [trial.summary() for trial in self.trials.values()],
        }


def look(url: str) -> Overview:
    """Read a search as it stands.

    Raises:
        DataError: where it is absent, was not made by this version, or is damaged.
    """
    search = records.read_search(url)
    held = _is_held(url)
    outcome = records.read_outcome(url)
    state: Literal["running", "finished", "interrupted"] = (
        "running" if held else "finished" if outcome else "interrupted"
    )
    return Overview(url, search, records.read_trials(url), outcome, state)


def going(root: str) -> list[Overview]:
    """Return the searches of a storage root that somebody holds; of others one file is read."""
    places = [storage.join(root, "searches", name) for name in records.names(root)]
    return [look(place) for place in places if _is_held(place)]


def table_order(trials: Mapping[int, Trial]) -> list[Trial]:
    """Return trials, those with a score first and the best of them first; then by number."""
    ranked = records.best(trials.values())
    scored = {trial.number for trial in ranked}
    return [*ranked, *(trial for number, trial in trials.items() if number not in scored)]


def differences(search: Search, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return key → (what the search's own recipe says, what a trial's says), where they differ."""
    found = {key: (_lookup(search.config, key), value) for key, value in values.items()}
    return {key: pair for key, pair in found.items() if pair[0] != pair[1]}


def _lookup(document: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(document, Mapping) or part not in document:
            return ABSENT
        document = document[part]
    return document


def _is_held(url: str) -> bool:
    try:
        claim = read_stored(Claim, storage.join(url, CLAIM), what="a claim", mend="delete it")
    except NotFoundError:
        return False
    return not claim.has_lapsed
