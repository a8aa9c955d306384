"""Searches: `searches list`, `searches show`, `searches study`, `searches report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from raypose.cli.places import check_out
from raypose.cli.telling import costs, origin
from raypose.cli.verbs import Call, Keys, Verb, Word
from raypose.console import one_line, plural, status, waiting
from raypose.errors import UsageError

__all__ = ["VERBS"]

SECTIONS = ("storage",)
SEARCH = Word("SEARCH", "id of a search, as searches list shows it, or its name")
MAX_ROWS = 40
"""Trials that are shown to a person: half the best, half the last."""
MAX_VALUE = 40
"""Characters of a value that are shown."""


class StudyKeys(Keys):
    """Where the study goes."""

    out: str = "study.log"
    """File to write, which optuna-dashboard opens."""
    force: bool = False
    """Write over a file that is none of ours."""
    dashboard: bool = False
    """Start optuna-dashboard on it, on 127.0.0.1, until interrupted."""


class ReportKeys(Keys):
    """Where the page goes."""

    out: str = ""
    """File to write; by default report.html in the search's folder."""


def list_searches(call: Call) -> None:
    """List searches: how far they are, their best score, and what they took."""
    from raypose import storage
    from raypose.errors import DataError
    from raypose.tuning import overview, records

    root = call.config().storage
    found, lines = [], []
    with waiting(f"looking in {root}"):
        for name in records.names(root):
            try:
                seen = overview.look(storage.join(root, "searches", name))
            except DataError as error:  # one that is damaged hides no other
                status(str(error))
                continue
            found.append(seen.summary())
            score = "no score" if seen.score is None else f"best {seen.score:.4f}"
            whose = origin(seen.search.owner, seen.search.began)
            parts = (name, seen.state, seen.told, score, _hours(seen.hours), whose)
            lines.append("  ".join(filter(None, parts)))
    status(f"searches in {root}")
    document = {"storage": root, "searches": found}
    call.show(document, "\n".join(map(one_line, lines)) or f"no search in {root}")


def show_search(call: Call) -> None:
    """Show the trials of a search and what it came to."""
    seen = _looked(call)
    best = seen.best
    lines = [f"{seen.search.id}  {seen.state}  {seen.told}", seen.url]
    if best is not None:
        values = "  ".join(f"{key}={_value(value)}" for key, value in best.values.items())
        so_far = "" if seen.outcome else " so far"
        lines.append(f"best{so_far}: trial {best.number}  {best.score:.4f}  {values}".rstrip())
    lines.append(f"{plural(seen.epochs, 'epoch', 'epochs')} in {_hours(seen.hours)} of trials")
    whose = origin(seen.search.owner, seen.search.began)
    lines += [line for line in (whose, costs(seen.costs)) if line]
    lines += [*seen.search.notes, *(seen.outcome.notes if seen.outcome else ())]
    lines += _table(seen)
    call.show(seen.document(), "\n".join(map(one_line, lines)))
    if best is not None:
        call.next(f"raypose searches report {seen.search.id}{call.at(call.config())}")


def write_study(call: Call) -> None:
    """Write a search as a study of Optuna."""
    from raypose import storage

    keys = call.keys
    if keys.dashboard and find_spec("optuna_dashboard") is None:
        raise UsageError("dashboard: optuna-dashboard is not here: pip install optuna-dashboard")
    if keys.dashboard and storage.is_s3(keys.out):
        raise UsageError(f"out: {keys.out}: the dashboard reads files of this machine; name one")
    check_out(keys.out, force=keys.force)
    seen = _looked(call)
    with waiting("loading Optuna"):
        from raypose.tuning.journal import journal
    with waiting("writing the study"):
        storage.write_bytes(keys.out, journal(seen.url, seen.trials.values()))
    call.show({"study": keys.out, **seen.summary()}, keys.out)
    if keys.dashboard:
        _serve(keys.out)
    else:
        call.next(f"optuna-dashboard {keys.out}")


def _serve(path: str) -> None:
    """Run the dashboard until interrupted."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    status("the dashboard is at http://127.0.0.1:8080/ until this is interrupted")
    study = JournalStorage(JournalFileBackend(path))
    import_module("optuna_dashboard").run_server(study, host="127.0.0.1", port=8080)


def report(call: Call) -> None:
    """Make a page of a search."""
    from raypose import storage

    if call.keys.out:
        check_out(call.keys.out)
    seen = _looked(call)
    out = call.keys.out or storage.join(seen.url, "report.html")
    with waiting("loading Optuna and matplotlib"):
        from raypose.tuning.report import search_page
    with waiting("drawing"):
        page = search_page(seen)
    storage.write_bytes(out, page.encode())
    call.show({"page": out, **seen.summary()}, out)


def _looked(call: Call) -> Any:
    from raypose.tuning import overview, records

    root = call.config().storage
    with waiting(f"reading {call.words[0]}"):
        return overview.look(records.locate(root, call.words[0]))


def _table(seen: Any) -> list[str]:
    """Return rows of the best trials, and of the last; how many are left out, between them."""
    from raypose.tuning.overview import table_order

    ordered = table_order(seen.trials)
    left_out = len(ordered) - MAX_ROWS
    if left_out <= 0:
        return _laid_out(ordered, seen.best)
    best = ordered[: MAX_ROWS // 2]
    known = {trial.number for trial in best}
    others = [trial for number, trial in seen.trials.items() if number not in known]
    rows = _laid_out([*best, *others[-(MAX_ROWS // 2) :]], seen.best)
    gap = f"… {left_out} more, in --json; below, the last to begin"
    return [*rows[: len(best) + 1], gap, *rows[len(best) + 1 :]]


def _laid_out(trials: Sequence[Any], best: Any) -> list[str]:
    if not trials:
        return []
    rows = [("trial", "state", "score", "epochs", "rung", "seconds", "values")]
    for trial in trials:
        mark = "*" if best is not None and trial.number == best.number else ""
        score = "" if trial.score is None else f"{trial.score:.4f}"
        told = trial.error or _values(trial.values)
        figures = (str(trial.epochs), str(trial.rung), f"{trial.seconds:.0f}")
        rows.append((f"{mark}{trial.number}", trial.state, score, *figures, told))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return [
        "  ".join(
            [*(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]
        ).rstrip()
        for row in rows
    ]


def _values(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{key}={_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


VERBS = (
    Verb(
        "searches list",
        (),
        "list searches, how far they are and their best scores",
        list_searches,
        ("raypose searches list", "raypose searches list storage=s3://my-bucket"),
        sections=SECTIONS,
    ),
    Verb(
        "searches show",
        (SEARCH,),
        "show the trials of a search, while it runs or after it",
        show_search,
        ("raypose searches show postures-1a2b3c4d", "raypose searches show postures"),
        sections=SECTIONS,
    ),
    Verb(
        "searches study",
        (SEARCH,),
        "write a search as a study of Optuna, for its dashboard",
        write_study,
        (
            "raypose searches study postures out=study.log",
            "raypose searches study postures dashboard=true",
        ),
        StudyKeys,
        SECTIONS,
    ),
    Verb(
        "searches report",
        (SEARCH,),
        "make a page of a search",
        report,
        ("raypose searches report postures", "raypose searches report postures out=search.html"),
        ReportKeys,
        SECTIONS,
    ),
)
