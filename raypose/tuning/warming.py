"""What a search starts from: trials of other searches, and captions that were scored beforehand."""

from __future__ import annotations

from raypose import storage
from raypose.config import Config
from raypose.console import plural, status
from raypose.errors import DataError
from raypose.tuning import records
from raypose.tuning.course import Course

__all__ = ["warm"]


def warm(config: Config, course: Course, url: str) -> None:
    """Tell a course of all that is known before its first trial.

    Args:
        config: the search's recipe.
        course: of the search.
        url: of the search.
    """
    for place in _others(config, url):
        _learn(course, place)


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
