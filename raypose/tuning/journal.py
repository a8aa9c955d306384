"""Records of a search as a study of Optuna: for its plots and figures, and for its dashboard.

The study is made anew from the records each time, and nothing goes back from it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from raypose import storage as files
from raypose.tuning.records import METRIC, Trial

__all__ = ["MARK", "STATES", "frozen", "journal", "quiet", "to_study"]

MARK = "raypose"
"""User attribute of a study by which a journal is known for ours; it holds the search's place."""
STATES = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
}
"""State of a record → state of Optuna's trial."""


def to_study(url: str, trials: Iterable[Trial], storage: BaseStorage | None = None) -> optuna.Study:
    """Return a study that holds the trials of a search.

    Optuna counts trials from 0 without gaps; their own number is a user attribute beside their
    values by the keys of a recipe. A trial whose parameters are none of Optuna's has none there.

    Args:
        url: of the search; its last part names the study.
        trials: their records.
        storage: where the study shall be; by default in memory.
    """
    with quiet():
        study = optuna.create_study(
            study_name=url.rstrip("/").rpartition("/")[2], direction="maximize", storage=storage
        )
        study.set_user_attr(MARK, url)
        study.set_metric_names([METRIC])
        study.add_trials([frozen(trial) for trial in trials])
    return study


def journal(url: str, trials: Iterable[Trial]) -> bytes:
    """Return a file that `optuna.storages.journal.JournalFileBackend` opens: see `to_study`."""
    lines = _Lines()
    to_study(url, trials, JournalStorage(lines))
    return "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in lines.logs).encode()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from saying what it makes and what of it is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


class _Lines(BaseJournalBackend):
    """A journal in memory: Optuna's own to a file waits for the disk after each trial."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs.extend(logs)


def frozen(trial: Trial) -> FrozenTrial:
    """Return a record as a trial of Optuna."""
    state = STATES[trial.state]
    plain: dict[str, Any] = {
        "state": state,
        "value": trial.score if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        "intermediate_values": dict(trial.scores),
        "user_attrs": _attributes(trial),
    }
    if state is TrialState.COMPLETE and trial.score is None:
        plain["state"] = TrialState.FAIL  # a complete one has a value
    try:
        params, distributions = _params(trial)
        made = optuna.create_trial(**plain, params=params, distributions=distributions)
    except (KeyError, TypeError, ValueError):  # of a record that was edited, or is older
        made = optuna.create_trial(**plain)
    began = datetime.fromtimestamp(trial.began, UTC)
    made.datetime_start = began
    if made.state.is_finished():
        made.datetime_complete = datetime.fromtimestamp(trial.began + trial.seconds, UTC)
    return made


def _attributes(trial: Trial) -> dict[str, Any]:
    found = {
        "number": trial.number,
        "values": files.finite(trial.values),
        "error": trial.error,
        "parent": trial.parent,
        "run": trial.run,
    }
    return {key: value for key, value in found.items() if value not in ("", {})}


def _params(trial: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters that have a distribution, and these.

    Choices that are lists or documents become their JSON: Optuna wants such as can be hashed.
    """
    params: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    for name, value in trial.params.items():
        if name not in trial.distributions:
            continue
        params[name] = _hashable(value)
        distributions[name] = _distribution(trial.distributions[name])
    return params, distributions


@lru_cache(maxsize=1024)  # the same few in all records of a search
def _distribution(text: str) -> BaseDistribution:
    distribution = json_to_distribution(text)
    if isinstance(distribution, CategoricalDistribution):
        return CategoricalDistribution([_hashable(choice) for choice in distribution.choices])
    return distribution


def _hashable(choice: Any) -> Any:
    return json.dumps(choice) if isinstance(choice, list | tuple | Mapping) else choice
