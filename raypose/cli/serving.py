"""The endpoint: `serve` here, `deploy` on a cluster, and `endpoint …` for what is there."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import asdict
from typing import Annotated, Any

import yaml
from pydantic import Field

from raypose.cli.evaluation import RELEASE
from raypose.cli.jobs import required
from raypose.cli.places import looked_up, require_port, require_shared
from raypose.cli.verbs import Call, Keys, Verb, Word
from raypose.config.section import NAME_PATTERN, Count
from raypose.config.settings import Config
from raypose.console import status, waiting
from raypose.errors import UsageError

__all__ = ["VERBS"]

SECTIONS = ("storage", "serve", "cluster")


class DeployKeys(Keys):
    """What becomes of the configuration."""

    print: bool = False
    """Print the configuration for Ray Serve, in YAML, and deploy nothing: --print."""


class ScaleKeys(Keys):
    """How many replicas."""

    min: Annotated[int, Field(ge=0)] | None = None
    """At least; by default as it was."""
    max: Count | None = None
    """At most; by default as it was."""


def serve(call: Call) -> None:
    """Serve a release over HTTP until it is interrupted."""
    config = call.config()
    config.serve.check_open()
    if not config.cluster.named:
        from raypose.serving.guard import Guard

        Guard(config.serve)  # what is wrong with the keys is said before anything starts
    release = looked_up(config.storage, call.words[0])
    if config.cluster.named:
        require_shared(release, config.cluster.shared, word=call.words[0])
    require_port(config.serve.host, config.serve.port)
    from raypose.serving.described import proxied

    with proxied(config.serve):
        with waiting("loading torch and Ray"):
            from raypose import runtime
            from raypose.serving import endpoint as serving

        with (
            runtime.connect(config.cluster, verbose=call.verbose),
            serving.running(config, call.words[0]) as served,
        ):
            document = {"url": served.url, "release": served.release}
            text = f"serving {served.release} at {served.url}/v1/classify; Ctrl-C stops it"
            call.show(document, text)
            call.next(_curl(config, served.url))
            while True:  # until a signal
                time.sleep(config.serve.poll_s)
                for line in served.news():
                    status(line)


def deploy(call: Call) -> None:
    """Put the endpoint on a cluster, where it outlives this command."""
    config, reference = call.config(), call.words[0]
    if call.keys.print:
        from raypose.serving.described import document

        made = document(config, reference)
        call.show(made, yaml.safe_dump(made, sort_keys=False).rstrip("\n"))
        return
    required(config)
    config.serve.check_open()
    release = looked_up(config.storage, reference)
    require_shared(release, config.cluster.shared, word=reference)
    endpoint = _endpoint(config)
    with waiting(f"deploying {reference} to {endpoint.address}"):
        seen = endpoint.deploy(reference)
    _show(call, seen)
    call.next(_curl(config, endpoint.url))


def show_endpoint(call: Call) -> None:
    """Show how an endpoint stands, and which release each replica answers with."""
    seen = _endpoint(call.config()).status()
    _show(call, seen)


def show_logs(call: Call) -> None:
    """Print the end of each replica's log."""
    logs = _endpoint(call.config()).logs()
    lines = [f"{name}: {line}" for name, text in logs.items() for line in text.splitlines()]
    call.show({"logs": logs}, "\n".join(lines))


def update(call: Call) -> None:
    """Answer with another release, or follow another alias, without starting anything anew."""
    from raypose.releases import references

    config, reference = call.config(), references.formed(call.words[0])
    if references.is_place(reference):
        release = looked_up(config.storage, reference)
        require_shared(release, config.cluster.shared, word=call.words[0])
    endpoint = _endpoint(config)
    with waiting(f"updating to {reference}"):
        seen = endpoint.update(reference)
    _show(call, seen)


def scale(call: Call) -> None:
    """Set how many replicas there are."""
    if call.keys.min is None and call.keys.max is None:
        raise UsageError("endpoint scale: give min=, max= or both, such as min=1 max=4")
    endpoint = _endpoint(call.config())
    with waiting("scaling"):
        seen = endpoint.scale(call.keys.min, call.keys.max)
    _show(call, seen)


def delete(call: Call) -> None:
    """Take the endpoint off the cluster."""
    endpoint = _endpoint(call.config())
    with waiting("deleting"):
        endpoint.delete()
    address = endpoint.address
    call.show({"deleted": True, "address": address}, f"the endpoint at {address} is gone")


def make_key(call: Call) -> None:
    """Make an API key; what is kept of it is its hash alone."""
    with waiting("loading"):
        from raypose.serving import guard
    name, key = call.words[0], guard.made()
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(f"{name!r}: not a name; use letters, digits, dot, dash and underscore")
    pair = f"{name}:{guard.digest(key)}"
    status(
        "the key is shown this once; the endpoint is given the last line as it is, or the pair in "
        "the variable that serve.keys_env names"
    )
    document = {"name": name, "key": key, "sha256": guard.digest(key), "pair": pair}
    given = shlex.quote(f"serve.keys={{{name}: {guard.digest(key)}}}")
    call.show(document, f"key   {key}\npair  {pair}\nas    {given}")


def _curl(config: Config, url: str) -> str:
    """Return the command that has a picture classified."""
    key = '-H "Authorization: Bearer $RAYPOSE_KEY" ' if config.serve.has_keys else ""
    return f"curl {key}--data-binary @PICTURE.jpg {url}/v1/classify"


def _endpoint(config: Config) -> Any:
    address = required(config)
    with waiting("loading Ray"):
        from raypose.serving.remote import Endpoint

    return Endpoint(address, config)


def _show(call: Call, seen: Any) -> None:
    """Show an endpoint in a line, and each of its replicas in one."""
    from raypose.serving.figures import REFUSALS, UNPROVEN

    where = seen.url or "not reached from here"
    lines = [f"{seen.state}  {seen.release} of {seen.storage}  {where}"]
    if seen.settings:
        lines.append("  ".join(f"{key}={_plain(value)}" for key, value in seen.settings.items()))
    if seen.message:
        lines.append(seen.message)
    for replica in seen.replicas:
        words = [replica["deployment"], replica["replica"], replica["state"]]
        words += [replica[key] for key in ("release", "backend") if replica.get(key)]
        words += [f"follows {replica['follows']}"] if replica.get("follows") else []
        unproven = replica.get("release") and not replica.get("proven", True)
        words += [UNPROVEN] if unproven else []
        words += [f"canary {replica['canary']}"] if replica.get("canary") else []
        words += [f"follows {replica['canary_follows']}"] if replica.get("canary_follows") else []
        lines.append("  ".join(words))
        for key, what in REFUSALS.items():
            found = replica.get(key) or {}
            lines += [f"  {what} {name}: {why}" for name, why in found.items()]
        lines += [f"  {replica['trouble']}"] if replica.get("trouble") else []
        lines += _figures(replica.get("releases") or {}, start="  ")
    if len(seen.replicas) > 1:
        lines += _figures(seen.releases, start="all replicas  ")
    call.show(asdict(seen), "\n".join(lines))


def _plain(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def _figures(releases: dict[str, Any], *, start: str) -> list[str]:
    """Return a line for each release that answers."""
    return [
        f"{start}{name}: {found['answers']} answers, {found['mean_ms']} ms, mean probability "
        f"{found['mean_probability']:.3f}"
        for name, found in sorted(releases.items())
    ]


AT = "cluster.jobs=http://127.0.0.1:8265"
VERBS = (
    Verb(
        "serve",
        (RELEASE,),
        "serve a release over HTTP, here",
        serve,
        ("raypose serve postures serve.port=8000", "raypose serve ./release serve.port=0"),
        sections=SECTIONS,
    ),
    Verb(
        "deploy",
        (RELEASE,),
        "put the endpoint on a cluster, where it stays",
        deploy,
        (f"raypose deploy postures@production {AT}", "raypose deploy postures --print"),
        DeployKeys,
        SECTIONS,
    ),
    Verb(
        "endpoint status",
        (),
        "show how an endpoint stands, and what each replica answers with",
        show_endpoint,
        (f"raypose endpoint status {AT}",),
        sections=("serve", "cluster"),
    ),
    Verb(
        "endpoint logs",
        (),
        "print the end of each replica's log",
        show_logs,
        ("raypose endpoint logs",),
        sections=("serve", "cluster"),
    ),
    Verb(
        "endpoint update",
        (RELEASE,),
        "answer with another release, or follow another alias",
        update,
        ("raypose endpoint update postures:v3", "raypose endpoint update postures@staging"),
        sections=("serve", "cluster"),
    ),
    Verb(
        "endpoint scale",
        (),
        "set how many replicas there are",
        scale,
        ("raypose endpoint scale min=1 max=4",),
        ScaleKeys,
        ("serve", "cluster"),
    ),
    Verb(
        "endpoint delete",
        (),
        "take an endpoint off its cluster",
        delete,
        ("raypose endpoint delete",),
        sections=("serve", "cluster"),
    ),
    Verb(
        "endpoint key",
        (Word("NAME", "of the client that is to have it"),),
        "make an API key, and the hash that the endpoint keeps",
        make_key,
        ("raypose endpoint key clinic",),
    ),
)
