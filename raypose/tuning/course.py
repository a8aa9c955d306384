"""The course of a search, from trial to trial: what is tried, what goes on, what is given up.

It knows neither Ray nor training: `study` carries out what it says. All that it decides rests on
records, so that a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raypose import config
from raypose.config import Config, canonical_json, space
from raypose.console import about, plural, status
from raypose.data import inputs
from raypose.errors import RayposeError
from raypose.training.costs import added
from raypose.tuning.points import Point, Points, default_params, own_value
from raypose.tuning.records import METRIC, Records, State, Trial, best
from raypose.tuning.rungs import Rungs

__all__ = ["Course", "formatted", "point_of"]

EPOCHS = "optim.epochs"
ALIKE = 3
"""Failures of one kind after which a choice is given up."""


class Course:
    """What happens next in a search; its methods are called by one driver, from any thread.

    Args:
        recipe: of the search.
        records: of its trials so far; those left running are taken over.
        url: of the search, in which its runs lie.
        before_s: seconds that earlier attempts took.
        given: the points to try, by number, in place of those that a sampler draws.
    """

    def __init__(
        self,
        recipe: Config,
        records: Records,
        *,
        url: str = "",
        before_s: float = 0.0,
        given: Sequence[Point] = (),
    ) -> None:
        self.recipe, self.settings, self.records = recipe, recipe.search, records
        self.url = url
        self.keys = inputs.searched_keys(recipe)
        self.began = time.monotonic() - before_s
        self.notes: list[str] = []
        self.over = ""
        """Why no trial begins any more; empty while some do."""
        self.lost: RayposeError | None = None
        """Why the search itself cannot go on."""
        self._lock = threading.RLock()
        self._since: dict[int, float] = {}
        self._started = time.monotonic()
        self._took: list[int] = []
        self._resumed = [
            records.claim(number)
            for number, trial in list(records.trials.items())
            if trial.state == "running"
        ]
        self.given = given
        self.points = Points(recipe, () if given else records.trials.values())
        longest = max(space.values(self.settings.space, EPOCHS) or [recipe.optim.epochs])
        self.rungs = Rungs(
            grace=min(self.settings.grace_epochs, longest),
            factor=self.settings.reduction_factor,
            num_epochs=longest,
        )
        self.rungs.fill(records.trials.values())
        for trial in list(records.trials.values()):
            self._give_up(trial)
        if not given and not any(trial.parent == "default" for trial in records.trials.values()):
            self.points.start_with(default_params(recipe), "default")

    @property
    def running(self) -> list[Trial]:
        """Trials that have begun and not ended, in this attempt."""
        return [self.records.trials[number] for number in list(self._since)]

    @property
    def num_left(self) -> int:
        """Trials that have not ended."""
        ended = sum(trial.state != "running" for trial in self.records.trials.values())
        return max(0, self.settings.num_trials - ended)

    def next(self) -> Trial | None:
        """Begin a trial; None where all have begun, or `over` says why none begins."""
        with self._lock:
            if self._is_over():
                return None
            if self._resumed:
                trial = self._resumed.pop(0)
                self._since[trial.number] = time.monotonic()
                return trial
            number = max(self.records.trials, default=-1) + 1
            if number >= self.settings.num_trials:
                return None
            point = self.given[number] if self.given else self.points.ask(number)
            if point is None:
                left = self.settings.num_trials - number
                self._note(f"every point has been tried: {plural(left, 'trial')} less than asked")
                self.over = "every point has been tried"
                return None
            self._since[number] = time.monotonic()
            if point.parent == "default":
                self._tell_stand_ins(point)
            return self.records.write(
                Trial(
                    number=number,
                    values=point.values,
                    params=point.params,
                    distributions=point.distributions,
                    parent=point.parent,
                    run=point_of(self.recipe, point.values, self.url).run_id,
                    began=time.time(),
                )
            )

    def report(self, number: int, metrics: Mapping[str, Any]) -> bool:
        """Note what a trial has reached; return whether it goes on.

        Args:
            number: of the trial.
            metrics: of an epoch: ``epoch``, from 1, and `METRIC`; or ``scores``, pairs of both.
        """
        with self._lock:
            trial = self.records.trials[number]
            pairs = metrics.get("scores") or [(metrics.get("epoch"), metrics.get(METRIC))]
            scores = {int(e): float(s) for e, s in pairs if s is not None and math.isfinite(s)}
            if not scores or trial.state != "running":
                return trial.state == "running"
            epoch = max(scores)
            last = epoch >= trial.values.get(EPOCHS, self.recipe.optim.epochs)
            goes_on = self.rungs.goes_on(number, epoch, scores[epoch])
            scores = {**trial.scores, **scores}
            self.records.write(
                trial,
                scores=scores,
                rung=self.rungs.passed(epoch),
                seconds=self._spent(trial),
                costs=added([trial.costs, metrics]),
            )
            if not goes_on and not last:
                self.end(number, "stopped")
                return False
            if self._is_over() and not last:
                self.end(number, "stopped", why=self.over)
                return False
            return True

    def end(self, number: int, state: State, *, error: str = "", why: str = "") -> None:
        """Note how a trial ended; what has ended before stays as it is."""
        with self._lock:
            trial = self.records.trials[number]
            if trial.state != "running" or number not in self._since:
                return
            if state == "finished" and trial.score is None:
                state, error = "failed", error or "it ended without a score"
            trial = self.records.write(trial, state=state, error=error, seconds=self._spent(trial))
            del self._since[number]
            self._took.append(number)
            self.points.tell(trial)
            self._say(trial, why)
            self._give_up(trial)

    def take_back(self) -> None:
        """Have trials begin again that Tune has let go without a word."""
        with self._lock:
            self._resumed = [*self.running, *self._resumed]
            self._since.clear()

    def lose(self, error: RayposeError) -> None:
        """End the search: what went wrong is not a trial's."""
        self.lost, self.over = error, str(error)

    def close(self) -> None:
        """Leave no trial running that a limit has kept from going on."""
        for trial in self._resumed if self.over else ():
            self.records.write(trial, state="stopped")
        self._resumed = []

    def commonest(self) -> str:
        """Return why most trials failed; empty where none did."""
        errors = [trial.error for trial in self.records.trials.values() if trial.error]
        kinds = Counter(map(_kind, errors)).most_common(1)
        return next((error for error in errors if _kind(error) == kinds[0][0]), "")

    @property
    def seconds(self) -> float:
        """Spent on the search, over all attempts."""
        return time.monotonic() - self.began

    def left_s(self) -> float | None:
        """Return about how many seconds are left, by those that trials took so far."""
        ended = len(self._took)
        if not ended:
            return None
        return (time.monotonic() - self._started) / ended * self.num_left

    def _spent(self, trial: Trial) -> float:
        """Return the seconds of a trial, over all attempts."""
        now = time.monotonic()
        spent = trial.seconds + now - self._since.get(trial.number, now)
        if trial.number in self._since:
            self._since[trial.number] = now
        return spent

    def _is_over(self) -> bool:
        limit, wanted = self.settings.max_hours, self.settings.stop_at
        if self.over:
            return True
        if limit is not None and self.seconds > 3600 * limit:
            self.over = f"search.max_hours={limit}"
        first = best(self.records.trials.values())[:1]
        if wanted is not None and first and (first[0].score or 0.0) >= wanted:
            self.over = f"search.stop_at={wanted}"
        if self.over:
            self._note(f"{self.over} is reached: no trial begins any more")
        return bool(self.over)

    def _give_up(self, trial: Trial) -> None:
        """Try a choice no more that has failed alike several times, and never done well."""
        if trial.state != "failed":
            return
        for key in sorted(trial.values, key=lambda key: key != "model.backbone"):
            if not self._is_choice(key) or len(space.values(self.settings.space, key)) < 2:
                continue
            same = [
                other
                for other in self.records.trials.values()
                if canonical_json(other.values.get(key)) == canonical_json(trial.values[key])
            ]
            alike = Counter(_kind(other.error) for other in same if other.state == "failed")
            well = any(other.score is not None for other in same)
            if well or alike[_kind(trial.error)] < ALIKE:
                continue
            taken = (key, canonical_json(trial.values[key]))
            if taken not in self.points.given_up:
                self.points.given_up.add(taken)
                self._note(
                    f"{key}={trial.values[key]} is tried no more: {alike[_kind(trial.error)]} "
                    f"trials failed alike ({trial.error})"
                )
            return

    def _is_choice(self, key: str) -> bool:
        found = self.settings.space.get(key)
        return found is not None and all(one.choice for _, one in space.named(key, found))

    def _tell_stand_ins(self, point: Point) -> None:
        """Say in what the first trial is not the recipe itself, which the space does not hold."""
        for key, value in point.values.items():
            own = own_value(self.recipe, key) if key in self.settings.space else value
            if own != value:
                self._note(
                    f"the recipe's {key}={own} is not in the space: {value} stands in for it"
                )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            status(text)

    def _say(self, trial: Trial, why: str) -> None:
        ended = sum(other.state != "running" for other in self.records.trials.values())
        outcome = f"failed: {trial.error}"
        if trial.state != "failed":
            outcome = "stopped" if trial.state == "stopped" else "finished"
            score = f"{METRIC} {trial.score:.3f}" if trial.score is not None else "no score"
            outcome = f"{outcome} after {plural(trial.epochs, 'epoch')}  {score}"
        first = best(self.records.trials.values())[:1]
        ranked = first and not self.given
        lead = f"  best {first[0].score:.3f} (trial {first[0].number})" if ranked else ""
        reason = f"  ({why})" if why else ""
        kind = "final" if self.given else "trial"
        with about(trial=trial.number, run=trial.run):
            status(
                f"{kind} {trial.number} {outcome}{reason}  {formatted(trial.values)}  "
                f"{ended}/{self.settings.num_trials} done{lead}"
            )


def point_of(
    recipe: Config, values: Mapping[str, Any], url: str, kept: Mapping[str, str] | None = None
) -> Config:
    """Return the recipe of one trial, whose run lies in its search's folder.

    Args:
        recipe: of the search.
        values: dotted key → value.
        url: of the search.
        kept: backbone → where its weights were kept.
    """
    own: dict[str, Any] = {
        "name": f"{recipe.name}-trial", "storage": url or recipe.storage, "search": {},
    }  # fmt: skip
    made = config.override(recipe, {**values, **own})
    place = (kept or {}).get(made.model.backbone)
    return config.override(made, {"model.kept": place}) if place else made


def formatted(values: Mapping[str, Any]) -> str:
    """Return values as a person reads them."""
    return "  ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
    )


def _kind(error: str) -> str:
    """Return what failures of one kind have in common: their words without their numbers."""
    return "".join(letter for letter in error if not letter.isdigit())
