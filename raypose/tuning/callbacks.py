"""What Tune asks and is told: its searcher and its scheduler, both for a course."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raypose import storage
from raypose.errors import RayposeError
from raypose.training import checkpoint
from raypose.tuning import records
from raypose.tuning.course import Course
from raypose.tuning.trial import ENDED, FAILED, NUMBER

__all__ = ["CourseScheduler", "CourseSearcher"]

DIED = "its process died"


class _Unkept:
    """Is no part of what Tune stores and copies of itself: nothing is read from there."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class CourseSearcher(_Unkept, Searcher):
    """Hands Tune the trials of a course, and is told of those that have failed for good.

    Args:
        course: what decides.
        room: tells how many trials may run now.
        reasons: Tune's name of a trial → why it failed last.
    """

    def __init__(self, course: Course, room: Callable[[], int], reasons: Mapping[str, str]) -> None:
        super().__init__()  # it is told of no score: see `CourseScheduler`
        self.course, self.room, self.reasons = course, room, reasons
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial; None where there is no room for one now."""
        if len(self.course.running) >= self.room():
            return None
        try:
            begun = self.course.next()
        except RayposeError as error:
            self.course.lose(error)
            begun = None
        if begun is None:
            return str(Searcher.FINISHED)
        self.numbers[trial_id] = begun.number
        return {NUMBER: begun.number, "values": begun.values}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note that a trial has failed as often as it may; the scheduler is told of all others."""
        if error and trial_id in self.numbers:
            why = self.reasons.get(trial_id) or DIED
            with suppress(RayposeError):
                self.course.end(self.numbers[trial_id], "failed", error=why)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: records are written as they come."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class CourseScheduler(_Unkept, FIFOScheduler):
    """Tells a course what trials reach, and Tune what it decides."""

    def __init__(self, course: Course, url: str, reasons: dict[str, str]) -> None:
        super().__init__()
        self.course, self.url, self.reasons = course, url, reasons
        self.ended: list[str] = []

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Return whether a trial goes on."""
        try:
            return self._decide(trial.config[NUMBER], result)
        except RayposeError as error:
            self.course.lose(error)
            return str(TrialScheduler.STOP)

    def _decide(self, number: int, result: dict[str, Any]) -> str:
        if FAILED in result:
            self._end(number, "failed", error=result[FAILED])
            return str(TrialScheduler.STOP)
        goes_on = self.course.report(number, result)
        if result.get(ENDED) and goes_on:
            self._end(number, "finished")
        elif not goes_on:
            self._tidy(number)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> None:
        """Note that a trial has ended: most have said so before."""
        with suppress(RayposeError):
            self._end(trial.config[NUMBER], "finished")

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Keep why a trial failed; it is tried again, unless the searcher hears of it too."""
        error = trial.get_error()
        lines = str(error).strip().splitlines() if error else []
        self.reasons[trial.trial_id] = lines[-1].strip()[:300] if lines else DIED

    def _end(self, number: int, state: records.State, *, error: str = "") -> None:
        self.course.end(number, state, error=error)
        self._tidy(number)

    def _tidy(self, number: int) -> None:
        """Drop what trials that ended a while ago held to go on training: most of their size."""
        for place in self.ended:
            checkpoint.forget(place)
        run = self.course.records.trials[number].run
        self.ended = [storage.join(self.url, "runs", run)]
