"""What a search starts from: trials of other searches, and captions that were scored beforehand."""

from __future__ import annotations

from typing import Any

from raypose import storage
from raypose.config import Config, override, space
from raypose.console import bar, plural, status
from raypose.errors import DataError, NotFoundError, RayposeError
from raypose.tuning import grammars, records
from raypose.tuning.course import Course
from raypose.tuning.grammars import Ranking
from raypose.tuning.points import default_params

__all__ = ["GRAMMARS", "warm"]

GRAMMARS = "grammars.json"
"""In a search's folder: how captions do without training."""


def warm(config: Config, course: Course, url: str) -> None:
    """Tell a course of all that is known before its first trial.

    Args:
        config: the search's recipe.
        course: of the search.
        url: of the search.
    """
    _score_captions(config, course, url)
    for place in _others(config, url):
        _learn(course, place)


def _score_captions(config: Config, course: Course, url: str) -> None:
    """Have a course try the captions first that do best without training, for each backbone."""
    if not (config.search.grammars and any(key.startswith("captions.") for key in course.keys)):
        return
    place = storage.join(url, GRAMMARS)
    try:
        found = storage.read_json(place)["backbones"]
    except NotFoundError:
        found = _rankings(config)
        storage.write_json(place, {**found[0], "backbones": found})
    if any(trial.parent == "captions" for trial in course.records.trials.values()):
        return
    searched = "model.backbone" in config.search.space
    for ranking in found:
        best = next((row for row in ranking["grammars"] if not row["is_control"]), None)
        if best is None:
            continue
        model = override(config, {"model.backbone": ranking["backbone"]})
        own = {"model.backbone": ranking["backbone"]} if searched else {}
        params = {**default_params(model), **best["values"], **best["chosen"], **own}
        course.points.start_with(params, "captions")


def _rankings(config: Config) -> list[dict[str, Any]]:
    """Return how the grammars of a search do by each of its backbones; see `grammars.rank`."""
    found = grammars.candidates(config, limit=config.search.grammars, seed=config.seed)
    rankings = []
    for name in space.values(config.search.space, "model.backbone") or [config.model.backbone]:
        model = override(config, {"model.backbone": name})
        try:
            with bar("encoding pictures") as update:
                ranking = grammars.rank(model, found, progress=update)
        except RayposeError as error:
            ranking = Ranking(str(name), note=str(error))
        status(f"captions with {name}: {ranking.note or ranking.verdict}")
        rankings.append({**ranking.to_dict(), "backbone": name})
    return rankings


def _learn(course: Course, place: str) -> None:
    """Tell a course of the trials of another search, and have it try their best first."""
    found = records.read_trials(place).values()
    name = place.rpartition("/")[2]
    fitting = {
        trial.number: params
        for trial in found
        if trial.state != "running" and (params := course.points.learn(trial))
    }
    if not fitting:
        return
    status(f"learning from {plural(len(fitting), 'trial')} of {name}")
    for trial in records.best(trial for trial in found if trial.number in fitting)[:1]:
        parent = f"{name}#{trial.number}"
        if all(other.parent != parent for other in course.records.trials.values()):
            course.points.start_with(fitting[trial.number], parent)


def _others(config: Config, url: str) -> list[str]:
    """Return where other searches lie: those that are named, and those of the same recipe."""
    named = [records.locate(config.storage, name) for name in config.search.sources]
    found = dict.fromkeys(named)
    for name in records.names(config.storage):
        place = storage.join(config.storage, "searches", name)
        if place == url or place in found:
            continue
        try:
            other = records.read_search(place)
        except DataError:
            continue  # of an earlier version, or half made
        if other.base == config.base_id and other.name == config.name:
            found[place] = None
    return [place for place in found if place != url]
