"""A cluster on this machine: `cluster up`, `cluster show`, `cluster drain`, `cluster down`."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from raypose.cli.places import require_answer
from raypose.cli.verbs import Call, Keys, Verb
from raypose.config.section import Count
from raypose.console import plural, status, waiting
from raypose.errors import UsageError

__all__ = ["VERBS"]


class FolderKeys(Keys):
    """Which cluster."""

    folder: str = ""
    """Where its token and its log lie; by default ~/.local/state/raypose/cluster."""


class UpKeys(FolderKeys):
    """How large it is."""

    nodes: Count = 1
    """Nodes, with the head; where it is up already, those that are missing join."""
    num_cpus: Annotated[int, Field(ge=2)] = 4
    """Logical CPUs of a node: slots for processes, not cores."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Of nodes beside the head: custom resources."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of nodes beside the head."""


class DrainKeys(FolderKeys):
    """When it goes."""

    deadline_s: Annotated[float, Field(gt=0, le=86400)] = 45.0
    """Seconds until then; a notice says its own."""
    notice: Literal["none", "aws"] = "none"
    """aws: wait until the metadata of this spot machine announce that it is taken back."""
    node: Annotated[str, Field(pattern=r"^[0-9a-f]*$")] = ""
    """First digits of its id, where it is not the one of this machine."""


VARIABLES = ("RAYPOSE_JOBS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
"""By which other commands come to it."""


def _nodes(call: Call) -> Any:
    from raypose.runtime.nodes import Nodes, default_folder

    folder = call.keys.folder
    return Nodes(Path(folder).absolute() if folder else default_folder())


def _haproxy_folder(of: Path) -> Path:
    """Return where HAProxy of a cluster keeps its files; names of sockets have to be short."""
    return Path("/tmp") / f"rp-{hashlib.sha256(os.fsencode(of)).hexdigest()[:12]}"


def up(call: Call) -> None:
    """Start it, and say by which variables other commands come to it."""
    from raypose.serving.described import HAPROXY, haproxy_in

    nodes, keys = _nodes(call), call.keys
    if os.environ.get(HAPROXY) == "1":
        haproxy_in(_haproxy_folder(nodes.folder))
    with waiting(f"starting {plural(keys.nodes, 'node')}"):
        found = nodes.up(
            keys.nodes, num_cpus=keys.num_cpus, labels=keys.labels, resources=keys.resources
        )
    variables = nodes.environment()
    text = "\n".join(f"export {key}={shlex.quote(value)}" for key, value in variables.items())
    call.show({**found, "environment": variables}, text)
    status(f"{plural(len(found['nodes']), 'node')} at {found['address']}, jobs at {found['jobs']}")
    at = f" folder={shlex.quote(keys.folder)}" if keys.folder else ""
    first = [f'eval "$(raypose cluster up{at})"'] if sys.stdout.isatty() else []
    call.next(*first, "raypose jobs list", f"raypose cluster down{at}")


def show(call: Call) -> None:
    """Say whether it is up, and where."""
    found = _nodes(call).show()
    count = plural(len(found["nodes"]), "node")
    call.show(found, f"{count} at {found['address']}, jobs at {found['jobs']}")


def down(call: Call) -> None:
    """End what `up` started, and nothing else."""
    nodes = _nodes(call)
    there = nodes.is_up
    named = [name for name in VARIABLES if name in os.environ]
    if there:
        with waiting("ending it"):
            nodes.down()
        shutil.rmtree(_haproxy_folder(nodes.folder), ignore_errors=True)
    call.show({"was_up": there}, "it is down" if there else f"no cluster is up in {nodes.folder}")
    if there and named:
        call.next(f"unset {' '.join(named)}")


def drain(call: Call) -> None:
    """Tell Ray that this node goes, now or once that is announced."""
    keys = call.keys
    address = call.config().cluster.named
    if not address:
        nodes = _nodes(call)
        if not nodes.is_up:
            raise UsageError("cluster.address: names no cluster, nor does RAY_ADDRESS; host:6379")
        address = nodes.show()["address"]
        os.environ.update(nodes.environment())
    from raypose.runtime import leaving

    left, why = keys.deadline_s, "it is ended"
    if keys.notice == "aws":
        with waiting("waiting for a notice"):
            left, why = leaving.await_notice(), "the spot machine is taken back"
    require_answer(address)
    node = leaving.drain(address, deadline_s=left, why=why, node=keys.node)
    text = f"node {node[:12]} goes in {left:.0f} s: its runs write checkpoints"
    call.show({"node": node, "deadline_s": left}, text)


VERBS = (
    Verb(
        "cluster up",
        (),
        "start a cluster of several nodes on this machine, to try things out",
        up,
        ("raypose cluster up nodes=3",),
        UpKeys,
    ),
    Verb(
        "cluster show",
        (),
        "say whether the cluster on this machine is up, and where",
        show,
        ("raypose cluster show",),
        FolderKeys,
    ),
    Verb(
        "cluster drain",
        (),
        "say that the node here goes, so that its runs write checkpoints",
        drain,
        ("raypose cluster drain deadline_s=45", "raypose cluster drain notice=aws"),
        DrainKeys,
        ("cluster",),
    ),
    Verb(
        "cluster down",
        (),
        "end the cluster that cluster up started",
        down,
        ("raypose cluster down",),
        FolderKeys,
    ),
)
