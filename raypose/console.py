"""What a person sees while work goes on: lines and bars on stderr; results go to stdout elsewhere.

On a terminal a count is a bar, and what is waited for a line with its seconds; otherwise both are
plain lines now and then, fit for a log. RAYPOSE_QUIET=1 in the environment silences them all, and
RAYPOSE_LOG=json makes each line a JSON object, in the processes that are started too.
"""

from __future__ import annotations

import contextvars
import getpass
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

__all__ = [
    "FORMATS",
    "JOB",
    "LOG",
    "OWNER",
    "RAY_JOB",
    "RESULT",
    "Level",
    "Update",
    "about",
    "answer",
    "bar",
    "complain",
    "in_context",
    "inherited",
    "is_drawn",
    "is_json",
    "is_quiet",
    "known",
    "one_line",
    "owner",
    "plural",
    "status",
    "waiting",
]

JOB = "RAYPOSE_JOB"
"""In the environment of what runs as a job of ours: its id."""
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""In the environment of the driver of any job, set by Ray."""
RESULT = "\x1e"
"""Begins each line of a result there, as a job's log is one stream."""
LOG = "RAYPOSE_LOG"
"""In the environment: one of `FORMATS`."""
FORMATS = ("plain", "json")
"""Of a line on stderr."""
OWNER = "RAYPOSE_OWNER"
"""In the environment: for whom this works, where that is not its user; a job bears it."""

MAX_OWNER = 200
"""Characters of a name."""

Level = Literal["info", "warning", "error"]
"""How much a line matters."""
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
"""A name and a password before a host: no log should hold them."""
_ABOUT: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "about", default=MappingProxyType({})
)
Update = Callable[[int, int], None]
"""Called with (done, in all) as work goes on."""

PLAIN_PERIOD_S = 10.0
SHORT_S = 0.4
"""A wait that is over before this is not shown."""
WORTH_TELLING_S = 2.0
"""A wait that was longer than this ends with a line that says how long it was."""


def status(message: str, *, level: Level = "info") -> None:
    """Print one line on stderr."""
    if not is_quiet():
        _print(level, message)


def complain(message: str) -> None:
    """Print on stderr why a command failed, however quiet it is to be."""
    _print("error", message)


@contextmanager
def about(**what: str | int) -> Iterator[None]:
    """Have lines of JSON say what they are about, while the block runs.

    Args:
        what: ``run``, ``search``, ``trial`` or ``rank``, beside what is known already.
    """
    before = _ABOUT.set({**_ABOUT.get(), **what})
    try:
        yield
    finally:
        _ABOUT.reset(before)


def known() -> Mapping[str, Any]:
    """Return what lines are about here: see `about`."""
    return _ABOUT.get()


def in_context(work: Callable[[], None]) -> Callable[[], None]:
    """Return what does the same in a thread, with lines about what they are about here."""
    context = contextvars.copy_context()
    return lambda: context.run(work)


def inherited() -> dict[str, str]:
    """Return the environment by which processes elsewhere print lines of the same form."""
    return {LOG: os.environ[LOG]} if is_json() else {}


def owner() -> str:
    """Return for whom this works: `OWNER`, or this process's user; empty where nobody is known."""
    try:
        return one_line(os.environ.get(OWNER, "").strip() or getpass.getuser())[:MAX_OWNER]
    except (KeyError, OSError):  # a container may run under a number that has no name
        return ""


def is_json() -> bool:
    """Tell whether lines are JSON objects."""
    return os.environ.get(LOG) == "json"


def is_drawn() -> bool:
    """Tell whether a person watches a terminal, on which bars and tables may be drawn."""
    return not is_quiet() and not is_json() and sys.stderr.isatty()


def _print(level: Level, message: str) -> None:
    """Print one line: a JSON object holds when, how much it matters, what, and what about."""
    line = _CREDENTIALS.sub("", one_line(message))
    if is_json():
        job = {"job": os.environ[JOB]} if os.environ.get(JOB) else {}
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        document = {"at": at, "level": level, "message": line, **job, **_ABOUT.get()}
        line = json.dumps(document, ensure_ascii=False)
    print(line, file=sys.stderr, flush=True)


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
    show = _spinning if is_drawn() else _reminding
    target = in_context(lambda: show(what, began, over))
    thread = threading.Thread(target=target, daemon=True)
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
    if not is_drawn():
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
