"""What a person sees while work goes on: lines and bars on stderr; results go to stdout elsewhere.

On a terminal a count is a bar; otherwise it is a plain line now and then, fit for a log.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["bar", "status"]

Update = Callable[[int, int], None]
"""Told (done, in all) as work goes on."""

PLAIN_PERIOD_S = 10.0


def status(message: str) -> None:
    """Print one line on stderr."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def bar(label: str) -> Iterator[Callable[..., None]]:
    """Show a count: yields ``update(done, total, note="")``."""
    if not sys.stderr.isatty():
        yield _plain(label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield update


def _plain(label: str) -> Callable[..., None]:
    """Return an update that prints the first and last counts, and one every ten seconds."""
    last = 0.0

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= PLAIN_PERIOD_S:
            last = now
            status(f"{label} {done}/{total}{f'  {note}' if note else ''}")

    return update
