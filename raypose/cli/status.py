"""`status`: on one screen what goes on: cluster, jobs, searches, runs, the endpoint.

Each part is asked for by itself, and one that does not answer says so in its line.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from raypose.cli import jobs
from raypose.cli.places import require_answer
from raypose.cli.verbs import Call, Verb
from raypose.config.settings import Config
from raypose.console import one_line, plural, waiting
from raypose.errors import RayposeError

__all__ = ["VERBS"]

PATIENCE_S = 3.0
"""How long an address may take to answer."""
ENDED, RUNS = 3, 5
"""Jobs that have ended, and runs without a result, that are shown."""
SHOWN = ("CPU", "GPU")

Part = tuple[Any, list[str]]
"""What a part says to a machine, and to a person."""


def status(call: Call) -> None:
    """Say what goes on, part by part."""
    config = call.config()
    found: dict[str, Any] = {"storage": config.storage}
    lines: list[str] = []
    for name, look in PARTS.items():
        with waiting(f"looking at {name}"):
            found[name], told = _looked(look, config)
        lines += [f"{name:<10}{one_line(line)}" for line in told[:1]]
        lines += [f"{'':<10}{one_line(line)}" for line in told[1:]]
    call.show(found, "\n".join(lines))


def _looked(look: Callable[[Config], Part], config: Config) -> Part:
    try:
        return look(config)
    except Exception as error:  # whatever a part meets hides no other
        kind = error.called if isinstance(error, RayposeError) else type(error).__name__
        line = f"{kind}: {' '.join(str(error).split())[:200]}"
        return {"error": line}, [line]


def _cluster(config: Config) -> Part:
    """Say what a cluster that is named has, and what of it is free."""
    address = config.cluster.named
    where = address or jobs.address_of(config)
    if not where:
        return None, [f"none named: cluster.address or cluster.jobs, RAY_ADDRESS or {jobs.ENV}"]
    require_answer(where)
    if address:
        from raypose import runtime

        with runtime.connect(config.cluster):
            seen = runtime.standing()
    else:
        seen = jobs.connected(where).standing()
    amounts = {
        name: {"total": seen.total.get(name, 0.0), "free": seen.free.get(name)} for name in SHOWN
    }
    parts = [
        f"{'?' if each['free'] is None else format(each['free'], 'g')} of {each['total']:g} {name}s"
        for name, each in amounts.items()
        if each["total"]
    ]
    line = f"{plural(seen.num_nodes, 'node')} at {where}, free: {', '.join(parts) or 'no CPU'}"
    return {"address": where, "nodes": seen.num_nodes, "resources": amounts}, [line]


def _jobs(config: Config) -> Part:
    """Say which jobs go on, and which were the last to end."""
    address = jobs.address_of(config)
    if not address:
        return None, [f"no server named: cluster.jobs, or {jobs.ENV}"]
    require_answer(address)
    known = jobs.connected(address).jobs()
    going = [job for job in known if job.going]
    shown = [*going, *[job for job in known if not job.going][:ENDED]]
    head = f"{len(going)} of {plural(len(known), 'job')} at {address} under way"
    documents = [jobs.document(job) for job in shown]
    return {"address": address, "shown": documents}, [head, *map(jobs.line, shown)]


def _searches(config: Config) -> Part:
    """Say how far the searches are that somebody makes."""
    from raypose.tuning import overview

    going = overview.going(config.storage)
    lines = [
        f"{seen.search.id}  {seen.told}  "
        f"{'no score' if seen.score is None else f'best {seen.score:.4f}'}"
        for seen in going
    ]
    head = f"{len(going)} under way in {config.storage}"
    return [seen.summary() for seen in going], [head, *lines]


def _runs(config: Config) -> Part:
    """Say which runs have no result yet, and when they were last heard of."""
    from raypose.training import runs

    found = runs.unfinished(config.storage)
    lines = [
        f"{row['run']}  after {plural(row['epochs'], 'epoch', 'epochs')}  "
        f"last written {_ago(time.time() - row['written'])} ago"
        for row in found[:RUNS]
    ]
    more = len(found) - len(lines)
    lines += [f"… {more} more: raypose runs list"] if more else []
    return found, [f"{len(found)} without a result in {config.storage}", *lines]


def _endpoint(config: Config) -> Part:
    """Say which release an endpoint answers with."""
    url = _url(config)
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE_S) as answer:
            said = json.load(answer)
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        reason = getattr(cause, "strerror", None) or cause
        return {"url": url, "up": False}, [f"none answers at {url} ({reason})"]
    release = said.get("release") if isinstance(said, Mapping) else None
    if not release:
        return {"url": url, "up": False}, [f"what answers at {url} is none of ours"]
    return {"url": url, "up": True, "release": release}, [f"{release} at {url}"]


def _url(config: Config) -> str:
    """Return where the endpoint of the cluster that is named is reached, else one that is here."""
    address = jobs.address_of(config)
    if address:
        require_answer(address)
        from raypose.serving.remote import Endpoint

        return Endpoint(address, config).url
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.serve.host, config.serve.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{config.serve.port}"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


PARTS: Mapping[str, Callable[[Config], Part]] = {
    "cluster": _cluster,
    "jobs": _jobs,
    "searches": _searches,
    "runs": _runs,
    "endpoint": _endpoint,
}
VERBS = (
    Verb(
        "status",
        (),
        "show what goes on: cluster, jobs, searches, runs, the endpoint",
        status,
        ("raypose status", "raypose status storage=s3://my-bucket serve.port=8000"),
        sections=("storage", "cluster", "serve"),
    ),
)
