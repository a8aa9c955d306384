"""Jobs: `jobs list`, `jobs show`, `jobs logs`, `jobs stop`, `jobs wait`; and handing over commands.

Where `cluster.jobs` or RAYPOSE_JOBS names a job server, a verb that it can carry out goes there,
with the resolved recipe and small files that the command names. What else only this machine has is
refused.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from raypose.cli.places import is_shared
from raypose.cli.verbs import ANY, Call, Keys, Verb, Word
from raypose.console import JOB, RESULT, status, waiting
from raypose.errors import UsageError

__all__ = ["ENV", "VERBS", "connected", "document", "handed_over", "line"]

SECTIONS = ("cluster",)
ID = Word("JOB", "id of a job, as jobs list shows it")
MAX_BYTES = 8 << 20
"""Of all files that go along: recipes and tables of classes are far smaller."""
SMALL = (".yaml", ".yml", ".json", ".csv", ".txt")
ENV = "RAYPOSE_JOBS"
"""In the environment: the job server, where `cluster.jobs` names none."""
HERE = ("jobs", "address", "num_cpus", "env", "shared", "driver_labels")
"""Keys of `cluster` that are of this side."""
IN_A_JOB = (JOB, "RAY_JOB_CONFIG_JSON_ENV_VAR")
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
    address = config.cluster.jobs or os.environ.get(ENV)
    if not address:
        return None
    parcel = _parcel(verb, call, config)
    client = connected(address)
    with waiting(f"handing {verb.name} over to {address}"):
        job_id, new = client.submit(parcel)
    status(f"{job_id} {'was handed over' if new else 'is being carried out already'}")
    return _followed(client, job_id)


def connected(address: str) -> Any:
    """Return the client of a job server."""
    with waiting("loading Ray"):
        from raypose.runtime.jobs import Client

    for name in ("ray.dashboard", "ray._private.runtime_env"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return Client(address)


def _followed(client: Any, job_id: str) -> int:
    """Show a job's log until it ends; Ctrl-C leaves it to itself."""
    try:
        job = client.follow(job_id, _Splitter().write)
    except KeyboardInterrupt:
        status(f"{job_id} goes on; raypose jobs logs {job_id} shows it, raypose jobs stop ends it")
        raise
    if job.state != "succeeded":
        status(f"{job_id} {job.state}: {job.message}")
    code: int = job.outcome
    return code


class _Splitter:
    """Writes the lines of results on stdout, and all others on stderr."""

    def __init__(self) -> None:
        self.left = ""

    def write(self, text: str) -> None:
        """Take more of a log; what is no whole line yet waits."""
        *lines, self.left = (self.left + text).split("\n")
        for line in lines:
            if line.startswith(RESULT):
                print(line.removeprefix(RESULT), flush=True)
            else:
                print(line, file=sys.stderr, flush=True)


def _parcel(verb: Verb, call: Call, config: Any) -> Any:
    """Put together what a command needs there."""
    with waiting("loading Ray"):
        from raypose.runtime.jobs import Parcel
    shared = config.cluster.shared
    files: dict[str, bytes] = {}
    if ANY in verb.sections:
        words = [_recipe(config, files, shared)]
    else:
        words = [_word(word, word, files, shared) for word in call.words]
        words += [_pair(key, value, files, shared) for key, value in _stated(verb, call, config)]
    own = call.keys.model_dump(mode="json", include=call.keys.model_fields_set)
    words += [_pair(key, value, files, shared) for key, value in own.items()]
    flags = [f"--{name}" for name in ("json", "verbose") if getattr(call, name)]
    metadata = {
        "verb": verb.name, "name": config.name if ANY in verb.sections else "",
        "run": _run(verb, config), "storage": config.storage, "user": _user(),
        "command": call.command,
    }  # fmt: skip
    return Parcel(
        command=("raypose", *verb.name.split(), *words, *flags),
        files=_sized(files),
        metadata={key: value for key, value in metadata.items() if value},
        env=_variables(config.cluster.env),
        labels=config.cluster.driver_labels,
    )


def _recipe(config: Any, files: dict[str, bytes], shared: Sequence[str]) -> str:
    """Put the resolved recipe in."""
    import yaml

    from raypose.config import sparse

    document = sparse(config)
    document["storage"] = config.storage
    cluster = {k: v for k, v in document.pop("cluster", {}).items() if k not in HERE}
    if cluster:
        document["cluster"] = cluster
    for key, value in _strings(document):
        if not key.startswith(("data.taxonomy.", "captions.")):
            _refuse_local(key, value, shared)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    files["recipe.yaml"] = text.encode()
    return "recipe.yaml"


def _stated(verb: Verb, call: Call, config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the pairs of sections that count there."""
    for key, value in call.overrides.items():
        section, _, name = key.partition(".")
        if key != "storage" and not (section == "cluster" and name in ("", *HERE)):
            yield key, value
    if "storage" in verb.sections:
        yield "storage", config.storage


def _strings(value: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield of each text in a document its dotted place and itself."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(inner, f"{above}.{key}" if above else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner, above)
    elif isinstance(value, str):
        yield above, value


def _pair(key: str, value: Any, files: dict[str, bytes], shared: Sequence[str]) -> str:
    if isinstance(value, str):
        return f"{key}={_word(key, value, files, shared)}"
    for _, text in _strings(value):
        _refuse_local(key, text, shared)
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _word(key: str, value: str, files: dict[str, bytes], shared: Sequence[str]) -> str:
    """Return a word as it is there: a small file goes along, another local place is refused."""
    here = os.path.exists(value) and "/" in os.path.abspath(value)
    if here and os.path.isfile(value) and value.lower().endswith(SMALL):
        name = os.path.basename(value)
        if name in files:
            name = f"{len(files)}-{name}"
        with open(value, "rb") as file:
            files[name] = file.read()
        return name
    if here:
        value = os.path.abspath(value)
    _refuse_local(key, value, shared)
    return value


def _refuse_local(key: str, value: str, shared: Sequence[str]) -> None:
    place = value.removeprefix("local-dir:").removeprefix("file://")
    if not place.startswith("/") and place == value:
        return
    if is_shared(place, shared):
        return
    what = value if key == value else f"{key}: {value}"
    raise UsageError(
        f"{what}: only this machine has it, and the command is to run on a cluster; put it on "
        "s3://, or name a folder that all nodes have by cluster.shared"
    )


def _sized(files: dict[str, bytes]) -> dict[str, bytes]:
    """Refuse more than a job should carry."""
    total = sum(map(len, files.values()))
    if total > MAX_BYTES:
        largest = max(files, key=lambda name: len(files[name]))
        raise UsageError(
            f"{largest}: {len(files[largest]) / 1e6:.0f} MB; all that goes along with a job may be "
            f"{MAX_BYTES / 1e6:.0f} MB: put it on s3://"
        )
    return files


def _variables(names: Sequence[str]) -> dict[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UsageError(f"cluster.env: {missing[0]}: is not set in the environment here")
    return {name: os.environ[name] for name in names}


def _run(verb: Verb, config: Any) -> str:
    """Return the run or search that a command makes."""
    if ANY not in verb.sections:
        return ""
    return str(config.search_id if verb.name == "search" else config.run_id)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return ""


def _server(call: Call) -> Any:
    """Return the job server that is named."""
    address = call.config().cluster.jobs or os.environ.get(ENV)
    if not address:
        raise UsageError(f"cluster.jobs: names no job server, nor does {ENV}; http://host:8265")
    return connected(address)


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
        code = _followed(client, job_id)
        if code:
            sys.exit(code)
        return
    text = client.log(job_id).replace(RESULT, "")
    call.show({"job": job_id, "log": text}, text.rstrip("\n"))


def stop_job(call: Call) -> None:
    """End a job; what it makes goes on from there when the command is given again."""
    with waiting("stopping"):
        job = _server(call).stop(call.words[0])
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
    return f"{job.id}  {job.state}  {began}  {job.seconds:.0f} s  {known.get('user', '')}  {what}"


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
