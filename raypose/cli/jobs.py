"""Jobs: `jobs list`, `jobs show`, `jobs logs`, `jobs stop`, `jobs wait`; and handing over commands.

Where `cluster.jobs` or RAYPOSE_JOBS names a job server, a verb that it can carry out goes there,
with the resolved recipe and small files that the command names. What else only this machine has is
refused.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from raypose.cli.parcels import parcel
from raypose.cli.verbs import ANY, Call, Keys, Verb, Word
from raypose.config.settings import Config
from raypose.console import JOB, RAY_JOB, RESULT, one_line, status, waiting
from raypose.errors import UsageError
from raypose.runtime.addresses import job_server

__all__ = ["ENV", "VERBS", "address_of", "connected", "document", "handed_over", "line", "required"]

SECTIONS = ("cluster",)
ID = Word("JOB", "id of a job, as jobs list shows it")
ENV = "RAYPOSE_JOBS"
"""In the environment: the job server, where `cluster.jobs` names none."""
IN_A_JOB = (JOB, RAY_JOB)
"""Set by us, and by Ray, where a command is a job already."""


class LogKeys(Keys):
    """How much of a log."""

    follow: bool = True
    """Go on until the job ends."""


def handed_over(verb: Verb, call: Call) -> int | None:
    """Have a cluster carry out a command where one is named; return its exit code, else None."""
    if not verb.as_job or any(name in os.environ for name in IN_A_JOB):
        return None
    config = call.config(call.words[0] if ANY in verb.sections else None)
    address = address_of(config)
    if not address:
        return None
    made = parcel(verb, call, config)
    client = connected(address)
    with waiting(f"handing {verb.name} over to {address}"):
        job_id, new = client.submit(made)
    status(f"{job_id} {'was handed over' if new else 'is being carried out already'}")
    code = _followed(client, job_id, _at(config))
    if code == 0 and verb.name == "train":
        from raypose.cli.training import given

        call.next(f"raypose publish {given(call)}")
    return code


def address_of(config: Config) -> str:
    """Return the job server that a document or the environment names; empty where neither does.

    Raises:
        UsageError: where it is no address of one.
    """
    named = config.cluster.jobs or os.environ.get(ENV, "")
    return job_server(named) if named else ""


def required(config: Config) -> str:
    """Return the job server that is named.

    Raises:
        UsageError: where none is.
    """
    address = address_of(config)
    if not address:
        raise UsageError(
            f"cluster.jobs: names no job server, nor does {ENV}; give one, such as "
            'http://host:8265, or make one here: eval "$(raypose cluster up)"'
        )
    return address


def connected(address: str) -> Any:
    """Return the client of a job server."""
    with waiting("loading Ray"):
        from raypose.runtime.jobs import Client

    for name in ("ray.dashboard", "ray._private.runtime_env"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return Client(address)


def _at(config: Config) -> str:
    """Return the pair that names the job server; empty where the environment does."""
    return f" cluster.jobs={config.cluster.jobs}" if config.cluster.jobs else ""


def _followed(client: Any, job_id: str, at: str) -> int:
    """Show a job's log until it ends; Ctrl-C leaves it to itself."""
    splitter = _Splitter()
    try:
        job = client.follow(job_id, splitter.write)
        splitter.close()
    except KeyboardInterrupt:
        end = "raypose jobs stop ends it"
        status(f"{job_id} goes on; raypose jobs logs {job_id}{at} shows it, {end}")
        return 130
    if job.state != "succeeded":
        status(f"{job_id} {job.state}: {job.message}")
    code: int = job.outcome
    return code


class _Splitter:
    """Writes the lines of results on stdout, and all others on stderr, fit for a terminal."""

    def __init__(self) -> None:
        self.left = ""

    def write(self, text: str) -> None:
        """Take more of a log; what is no whole line yet waits."""
        *lines, self.left = (self.left + text).split("\n")
        for line in lines:
            if line.startswith(RESULT):
                print(line.removeprefix(RESULT), flush=True)
            else:
                print(one_line(line.rstrip("\r")), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Write what has no end of line."""
        if self.left:
            self.write("\n")


def _server(call: Call) -> Any:
    return connected(required(call.config()))


def list_jobs(call: Call) -> None:
    """List jobs, the newest first."""
    client = _server(call)
    found = client.jobs()
    lines = [line(job) for job in found]
    call.show(
        {"jobs": [document(job) for job in found]},
        "\n".join(lines) or f"no job at {client.address}",
    )


def show_job(call: Call) -> None:
    """Show what a job is, how far it is, and what it makes."""
    job = _server(call).find(call.words[0])
    lines = [line(job), job.metadata.get("command") or job.entrypoint]
    if job.message:
        lines.append(job.message)
    call.show(document(job), "\n".join(lines))
    run, at = job.metadata.get("run"), job.metadata.get("storage")
    if run:
        group = "searches" if job.metadata.get("verb") == "search" else "runs"
        call.next(f"raypose {group} show {run} storage={at}")


def show_log(call: Call) -> None:
    """Print a job's log; of one that goes on, until it ends."""
    client, job_id = _server(call), call.words[0]
    if call.keys.follow and not call.json:
        code = _followed(client, job_id, _at(call.config()))
        if code:
            sys.exit(code)
        return
    text = client.log(job_id).replace(RESULT, "")
    lines = [one_line(line) for line in text.rstrip("\n").split("\n")]
    call.show({"job": job_id, "log": text}, "\n".join(lines))


def stop_job(call: Call) -> None:
    """End a job; what it makes goes on from there when the command is given again."""
    server = _server(call)
    if not server.find(call.words[0]).going:
        status(f"{call.words[0]} has ended already")
    with waiting("stopping"):
        job = server.stop(call.words[0])
    call.show(document(job), line(job))


def wait_for(call: Call) -> None:
    """Wait until a job has ended, and end as it did."""
    client = _server(call)
    with waiting(f"waiting for {call.words[0]}"):
        job = client.wait(call.words[0])
    call.show(document(job), line(job))
    if job.outcome:
        sys.exit(job.outcome)


def line(job: Any) -> str:
    """Return a job in a line."""
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.began)) if job.began else "waits"
    known = job.metadata
    what = " ".join(known[key] for key in ("verb", "run") if key in known) or job.entrypoint
    shown = f"{job.id}  {job.state}  {began}  {job.seconds:.0f} s  {known.get('user', '')}  {what}"
    return one_line(shown)


def document(job: Any) -> dict[str, Any]:
    """Return a job for a machine."""
    return {
        **asdict(job),
        "metadata": dict(job.metadata),
        "outcome": None if job.going else job.outcome,
    }


VERBS = (
    Verb(
        "jobs list",
        (),
        "list the jobs of a cluster",
        list_jobs,
        ("raypose jobs list", "raypose jobs list cluster.jobs=http://127.0.0.1:8265"),
        sections=SECTIONS,
    ),
    Verb(
        "jobs show",
        (ID,),
        "show what a job is, how far it is, and what it makes",
        show_job,
        ("raypose jobs show train-postures-1a2b3c4d",),
        sections=SECTIONS,
    ),
    Verb(
        "jobs logs",
        (ID,),
        "print a job's log until it ends",
        show_log,
        ("raypose jobs logs train-postures-1a2b3c4d",),
        LogKeys,
        SECTIONS,
    ),
    Verb(
        "jobs stop",
        (ID,),
        "end a job",
        stop_job,
        ("raypose jobs stop train-postures-1a2b3c4d",),
        sections=SECTIONS,
    ),
    Verb(
        "jobs wait",
        (ID,),
        "wait until a job has ended, and end as it did",
        wait_for,
        ("raypose jobs wait train-postures-1a2b3c4d",),
        sections=SECTIONS,
    ),
)
