"""A search as it goes: a live table on a terminal, where elsewhere its `course` prints; meters."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, get_args

from raypose.console import is_drawn, plural
from raypose.runtime import Meters
from raypose.training.costs import added
from raypose.tuning.course import Course, formatted
from raypose.tuning.records import State, Trial, best

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

__all__ = ["measure", "table", "watching"]

ROWS = 12
"""Trials that are shown at most: those that run, then the best."""
PERIOD_S = 1.0
METERS_EVERY = 5
"""Periods: Ray hands on what it is told every ten seconds."""


@contextmanager
def watching(course: Course) -> Iterator[None]:
    """Show a course on a terminal, and tell meters how it goes, while the block runs."""
    meters, over = Meters(search=_name(course)), threading.Event()
    with _live(course) if is_drawn() else nullcontext() as live:

        def refresh(turn: int) -> None:
            if turn % METERS_EVERY == 0:
                measure(course, meters)
            if live is not None:
                live.update(table(course))

        def repeat() -> None:
            turns = itertools.count()
            while not over.wait(PERIOD_S):
                refresh(next(turns))

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            refresh(0)


def _live(course: Course) -> Live:
    from rich.console import Console
    from rich.live import Live

    return Live(table(course), console=Console(stderr=True), refresh_per_second=2)


def measure(course: Course, meters: Meters) -> None:
    """Tell meters of a course: its trials by state, the workers that are busy, the best score."""
    trials = list(course.records.trials.values())
    counts = Counter(trial.state for trial in trials)
    counts["running"] = len(course.running)  # others a killed driver has left
    for state in get_args(State):
        meters.tell("raypose_search_trials", counts[state], state=state)
    busy = counts["running"] * course.recipe.train.least_workers
    meters.tell("raypose_search_busy_workers", busy)
    meters.tell("raypose_search_asked", course.settings.num_trials)
    meters.tell("raypose_search_epochs", sum(trial.epochs for trial in trials))
    meters.tell("raypose_search_spent_s", sum(trial.seconds for trial in trials))
    for key, value in added(trial.costs for trial in trials).items():
        meters.tell(f"raypose_search_{key}", value)
    scores = [trial.score for trial in trials if trial.score is not None]
    if scores:
        meters.tell("raypose_search_best_score", max(scores))


def _name(course: Course) -> str:
    """Return the id of a search, as a series bears it; its finals are another's."""
    name = course.url.rpartition("/")[2]
    return f"{name}/finals" if course.given else name


def table(course: Course) -> Table:
    """Return the trials that run and the best, with counts and the time that is left."""
    from rich.table import Table

    trials = list(course.records.trials.values())
    running = course.running
    ranked = best(trials)
    shown = Table(title=_head(course, trials, running), title_justify="left", box=None)
    for name in ("trial", "state", "epoch", "rung", "score", "values"):
        shown.add_column(name, justify="left" if name in ("state", "values") else "right")
    rows = [*running, *(trial for trial in ranked if trial not in running)][:ROWS]
    for trial in rows:
        score = "" if trial.score is None else f"{trial.score:.3f}"
        mark = " best" if ranked and trial.number == ranked[0].number else ""
        cells = (str(trial.number), trial.state + mark, str(trial.epochs), str(trial.rung), score)
        shown.add_row(*cells, formatted(trial.values))
    return shown


def _head(course: Course, trials: list[Trial], running: list[Trial]) -> str:
    ended = sum(trial.state != "running" for trial in trials)
    failed = sum(trial.state == "failed" for trial in trials)
    parts = [f"{ended} of {plural(course.settings.num_trials, 'trial')} done"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{plural(len(running), 'worker')} busy"]
    left = course.left_s()
    if left is not None:
        minutes = f"{left / 60:.0f} min" if left < 5400 else f"{left / 3600:.1f} h"
        parts.append(f"{minutes} left")
    return ", ".join([*parts, time.strftime("%H:%M:%S")])
