"""A search as it goes: a live table on a terminal; elsewhere the lines of its `course` do."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from raypose.console import is_quiet, plural
from raypose.tuning.course import Course, formatted
from raypose.tuning.records import Trial, best

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["table", "watching"]

ROWS = 12
"""Trials that are shown at most: those that run, then the best."""
PERIOD_S = 1.0


@contextmanager
def watching(course: Course) -> Iterator[None]:
    """Show a course on a terminal while the block runs."""
    if is_quiet() or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    over = threading.Event()
    with Live(table(course), console=Console(stderr=True), refresh_per_second=2) as live:

        def refresh() -> None:
            while not over.wait(PERIOD_S):
                live.update(table(course))

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            live.update(table(course))


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
