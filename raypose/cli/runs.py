"""Runs: `runs list`, `runs show`, `runs rm`, `runs clean`."""

from __future__ import annotations

from typing import Any

from raypose.cli.telling import costs, origin, size
from raypose.cli.verbs import Call, Keys, Verb, Word
from raypose.console import plural, status, waiting

__all__ = ["VERBS"]

SECTIONS = ("storage",)
RUN = Word("RUN", "id of a run, as runs list shows it")


class RemovalKeys(Keys):
    """What may go."""

    force: bool = False
    """Delete a run of which releases were made: they stay, but cannot be made anew."""


def list_runs(call: Call) -> None:
    """List runs, with their sizes and the releases made of them."""
    from raypose.training import runs

    root = call.config().storage
    with waiting(f"looking in {root}"):
        found = runs.overview(root)
    lines = []
    for row in found:
        state = _state(row)
        made = f"  → {', '.join(row['releases'])}" if row["releases"] else ""
        whose = origin(row["owner"], row["began"])
        if row["damaged"]:
            status(row["damaged"])
        parts = (row["run"], size(row["bytes"]), state, whose)
        lines.append("  ".join(filter(None, parts)) + made)
    status(f"runs in {root}")
    call.show({"storage": root, "runs": found}, "\n".join(lines) or f"no run in {root}")


def _state(row: dict[str, Any]) -> str:
    if row["damaged"]:
        return "damaged"
    return "finished" if row["finished"] else f"after {plural(row['epochs'], 'epoch', 'epochs')}"


def show_run(call: Call) -> None:
    """Show how far a run is, its figures and what takes how much room."""
    from raypose.training import runs

    found = runs.show(call.config().storage, call.words[0])
    lines = [f"{found['run']}  {size(found['bytes'])}  {_state(found)}", found["url"]]
    lines += [found["damaged"]] if found["damaged"] else []
    whose = origin(found["owner"], found["began"])
    lines += [line for line in (whose, costs(found)) if line]
    lines += [f"{name}  {size(count)}" for name, count in sorted(found["parts"].items())]
    lines += [
        f"{key} {value:.4f}"
        for key, value in found["metrics"].items()
        if isinstance(value, float) and key not in found
    ]
    lines += [f"released as {name}" for name in found["releases"]]
    call.show(found, "\n".join(lines))


def remove_run(call: Call) -> None:
    """Delete a run."""
    from raypose.training import runs

    (run_id,) = call.words
    freed = runs.remove(call.config().storage, run_id, force=call.keys.force)
    call.show({"run": run_id, "bytes": freed}, f"{run_id} is deleted: {size(freed)}")


def clean_runs(call: Call) -> None:
    """Delete what finished runs need no more."""
    from raypose.training import runs

    freed = runs.clean(call.config().storage)
    lines = [f"{run}  {size(count)}" for run, count in freed.items()]
    total = size(sum(freed.values()))
    call.show({"runs": freed}, "\n".join([*lines, f"{total} of {plural(len(freed), 'run')} freed"]))


VERBS = (
    Verb(
        "runs list",
        (),
        "list runs, their sizes and what was released of them",
        list_runs,
        ("raypose runs list", "raypose runs list storage=s3://my-bucket"),
        sections=SECTIONS,
    ),
    Verb(
        "runs show",
        (RUN,),
        "show how far a run is, its figures and its parts' sizes",
        show_run,
        ("raypose runs show postures-1a2b3c4d",),
        sections=SECTIONS,
    ),
    Verb(
        "runs rm",
        (RUN,),
        "delete a run",
        remove_run,
        ("raypose runs rm postures-1a2b3c4d",),
        RemovalKeys,
        SECTIONS,
    ),
    Verb(
        "runs clean",
        (),
        "delete the checkpoints of finished runs",
        clean_runs,
        ("raypose runs clean",),
        sections=SECTIONS,
    ),
)
