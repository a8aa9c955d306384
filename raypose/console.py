"""What a person sees while work goes on: lines and bars on stderr; results go to stdout elsewhere.

On a terminal a count is a bar, and what is waited for a line with its seconds; otherwise both are
plain lines now and then, fit for a log. RAYPOSE_QUIET=1 in the environment silences them all.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = [
    "JOB",
    "RESULT",
    "Update",
    "answer",
    "bar",
    "is_quiet",
    "one_line",
    "plural",
    "status",
    "waiting",
]

JOB = "RAYPOSE_JOB"
"""In the environment of what runs as a job of ours: its id."""
RESULT = "\x1e"
"""Begins each line of a result there, as a job's log is one stream."""

Update = Callable[[int, int], None]
"""Called with (done, in all) as work goes on."""

PLAIN_PERIOD_S = 10.0
SHORT_S = 0.4
"""A wait that is over before this is not shown."""
WORTH_TELLING_S = 2.0
"""A wait that was longer than this ends with a line that says how long it was."""


def status(message: str) -> None:
    """Print one line on stderr."""
    if not is_quiet():
        print(one_line(message), file=sys.stderr, flush=True)


def answer(text: str) -> None:
    """Print a result on stdout."""
    if JOB in os.environ:
        text = "\n".join(f"{RESULT}{line}" for line in text.splitlines())
    print(text, flush=True)


def one_line(text: str) -> str:
    r"""Return a text with what would break a line, or steer a terminal, written out: ``\n``.

    Names of files come from strangers.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(count: int, noun: str, more: str = "") -> str:
    """Return ``1 class``, ``2 classes``: a count with its noun, whose plural may be given."""
    hissing = noun.endswith(("s", "sh", "ch", "x")) and not noun.endswith("och")
    ending = "es" if hissing else "s"
    return f"{count} {noun if count == 1 else more or noun + ending}"


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say within a second what is being waited for, and how long it has been."""
    if is_quiet():
        yield
        return
    began, over = time.monotonic(), threading.Event()
    show = _spinning if sys.stderr.isatty() else _reminding
    thread = threading.Thread(target=show, args=(what, began, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        spent = time.monotonic() - began
        if spent > WORTH_TELLING_S:
            status(f"{what}: {spent:.1f} s")


@contextmanager
def bar(label: str) -> Iterator[Callable[..., None]]:
    """Show a count: yields ``update(done, total, note="")``."""
    if is_quiet() or not sys.stderr.isatty():
        yield _plain(label)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

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


def is_quiet() -> bool:
    """Tell whether RAYPOSE_QUIET silences all of it."""
    return os.environ.get("RAYPOSE_QUIET", "") not in ("", "0")


def _spinning(what: str, began: float, over: threading.Event) -> None:
    """Keep a line on a terminal up to date."""
    from rich.console import Console

    if over.wait(SHORT_S):
        return
    with Console(stderr=True).status(f"{what} …") as line:
        while not over.wait(0.5):
            line.update(f"{what} …  {time.monotonic() - began:.0f} s")


def _reminding(what: str, began: float, over: threading.Event) -> None:
    """Print a line where it takes a while, and one every ten seconds."""
    if over.wait(SHORT_S):
        return
    status(f"{what} …")
    while not over.wait(PLAIN_PERIOD_S):
        status(f"still {what} …  {time.monotonic() - began:.0f} s")


def _plain(label: str) -> Callable[..., None]:
    """Return an update that prints the first and last counts, and one every ten seconds."""
    last, began, first = 0.0, time.monotonic(), -1

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first < 0 else first
        if done >= total or now - last >= PLAIN_PERIOD_S:
            last = now
            rate = (done - first) / max(now - began, 1e-6)
            left = f"  {_short((total - done) / rate)} left" if rate and done < total else ""
            status(f"{label} {done}/{total}{f'  {note}' if note else ''}{left}")

    return update


def _short(seconds: float) -> str:
    """Return a length of time in its largest unit that is not 0."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
