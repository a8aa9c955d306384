"""What a cluster has, what it may grow to, and waiting for a part of it.

A job that cannot be placed waits without end and looks hung: so what could never be given is
refused at once, and what is not free now is waited for in the open, until `cluster.max_wait_s`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray._private import state
from ray.util import placement_group, placement_group_table, remove_placement_group

from raypose.config import ClusterConfig
from raypose.console import status
from raypose.errors import ResourceError
from raypose.runtime.connection import is_local

__all__ = [
    "Standing",
    "at_once",
    "cores",
    "held",
    "make_room",
    "require",
    "standing",
    "store_bytes",
    "wait_for",
    "wants_gpu",
    "within_reach",
]

TELL_S = 15.0
"""Between lines that say what is missing."""
KINDS = ("CPU", "GPU")


@dataclass(frozen=True)
class Standing:
    """What a cluster has.

    Attributes:
        num_nodes: that are alive.
        total: Ray resource → amount, of all nodes.
        free: the same of what nobody holds.
    """

    num_nodes: int
    total: Mapping[str, float]
    free: Mapping[str, float]


def within_reach() -> dict[str, float]:
    """Return what the cluster has, or may have where an autoscaler adds all nodes that it may."""
    grown = state.state.get_max_resources_from_cluster_config() or {}
    there = ray.cluster_resources()
    return {key: max(there.get(key, 0.0), grown.get(key, 0.0)) for key in {*there, *grown}}


def standing() -> Standing:
    """Return what the cluster that is connected to has."""
    total, free = ray.cluster_resources(), ray.available_resources()
    alive = sum(bool(node["Alive"]) for node in ray.nodes())
    return Standing(alive, total, {name: free.get(name, 0.0) for name in total})


def held() -> dict[str, float]:
    """Return what Ray has given to this worker: resource → amount; nothing outside of one."""
    if not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return {}
    found: dict[str, float] = ray.get_runtime_context().get_assigned_resources()
    return found


def at_once() -> int | None:
    """Return how many processes that compute are worth running side by side; None for all.

    CPUs of a node that is alone may be slots, of which there are more than cores; of several nodes
    Ray knows better.
    """
    if sum(bool(node["Alive"]) for node in ray.nodes()) > 1:
        return None
    return cores()


def cores() -> int:
    """Return how many this process may compute on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone tells what a container leaves of them
        return os.cpu_count() or 1


def wants_gpu(asked: bool | None, *, count: int) -> bool:
    """Return what was asked, or else whether the cluster has, or may grow to, as many GPUs."""
    if asked is not None:
        return asked
    found = within_reach().get("GPU", 0.0)
    if 0 < found < count:
        status(f"no GPU is used: {count} are wanted and the cluster has {found:g}; take fewer")
    return found >= count


def store_bytes() -> int:
    """Return what the object stores of the cluster hold together; 0 where no cluster is known."""
    return int(ray.cluster_resources().get("object_store_memory", 0)) if ray.is_initialized() else 0


def require(wanted: Mapping[str, float], *, what: str, mend: str) -> None:
    """Check that the cluster could ever give what is asked, before anything waits for it.

    Args:
        wanted: Ray resource → amount.
        what: who asks, for the message.
        mend: what the user can do.

    Raises:
        ResourceError: naming the resource, the need and what there is.
    """
    there, reach = ray.cluster_resources(), within_reach()
    for resource, amount in wanted.items():
        has, may = there.get(resource, 0.0), reach.get(resource, 0.0)
        if amount > may:
            kind = resource.removeprefix("accelerator_type:")
            if kind != resource:
                raise ResourceError(f"train.accelerator_type={kind}: no node has such accelerators")
            if resource not in KINDS:
                raise ResourceError(
                    f"{what} needs {amount:g} of the resource {resource!r} at once, of which all "
                    f"nodes have {may:g}; they get it as they start"
                )
            grows = f", and may grow to {may:g}" if may > has else ""
            wants = f"{amount:g} {resource}{'s' * (amount != 1)}"
            raise ResourceError(
                f"{what} needs {wants} at once where the cluster has {has:g}{grows}; {mend}"
            )


def make_room(
    each: Mapping[str, float], count: int, cluster: ClusterConfig, *, what: str, who: str
) -> None:
    """Refuse workers that the cluster can never place, and wait for those that it can.

    Args:
        each: what a worker needs: Ray resource → amount. One CPU comes on top, to decode by.
        count: of workers.
        cluster: that they are to run on; one of our own has nobody to wait for.
        what: key that asks for so many, with its value.
        who: run or search that waits.

    Raises:
        ResourceError: see `require` and `wait_for`.
    """
    wanted = {key: count * amount for key, amount in each.items()}
    wanted["CPU"] += 1
    mend = "lower it, or raise cluster.num_cpus where Ray is started here"
    require(wanted, what=what, mend=mend)
    if not is_local(cluster):
        bundles = [each] * count + [{"CPU": 1.0}]
        wait_for(bundles, what=who, max_wait_s=cluster.max_wait_s)


def wait_for(bundles: Sequence[Mapping[str, float]], *, what: str, max_wait_s: float) -> None:
    """Wait until the cluster could place some bundles, which an autoscaler then adds nodes for.

    They are not held: who asks at once finds them free, or waits with Ray.

    Args:
        bundles: each of which one node must hold: Ray resource → amount.
        what: who waits, for the messages.
        max_wait_s: seconds after which it is given up.

    Raises:
        ResourceError: then.
    """
    held = [{key: amount for key, amount in bundle.items() if amount} for bundle in bundles]
    group = placement_group(held, strategy="PACK")
    began, told = time.monotonic(), 0.0
    try:
        while placement_group_table(group)["state"] != "CREATED":
            waited = time.monotonic() - began
            if waited > max_wait_s:
                raise ResourceError(
                    f"{what} waited {waited:.0f} s (cluster.max_wait_s): {_missing(held)}"
                )
            if waited - told > (TELL_S if told else 2.0):
                told = waited
                status(f"{what} waits, {waited:.0f} s so far: {_missing(held)}")
            time.sleep(0.05 if waited < 1 else 1.0)
    finally:
        remove_placement_group(group)


def _missing(bundles: Sequence[Mapping[str, float]]) -> str:
    """Say what is wanted, what is there, what is free, and what could come."""
    wanted: Counter[str] = Counter()
    for bundle in bundles:
        for key, amount in bundle.items():
            wanted[key] += amount  # type: ignore[assignment]
    there, free, reach = ray.cluster_resources(), ray.available_resources(), within_reach()
    parts = []
    for key in sorted(wanted, key=lambda key: (key not in KINDS, key)):
        has = there.get(key, 0.0)
        grows = f", may grow to {reach[key]:g}" if reach.get(key, 0.0) > has else ""
        parts.append(
            f"{wanted[key]:g} {key}s wanted, {free.get(key, 0.0):g} of {has:g} free{grows}"
        )
    return "; ".join(parts)
