"""A node that is about to go: how that is heard, and told to Ray.

Ray then begins nothing new on it, and runs that train there write a checkpoint at once. Kubernetes
tells a pod before it ends, by a hook; AWS puts a note into the metadata of a spot machine, two
minutes before it is taken back. No driver is connected for it: that would take longer, and hold up
where the node is half gone.
"""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

os.environ.setdefault("RAY_py_gcs_connect_timeout_s", "10")  # read when ray is imported

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from ray.core.generated.gcs_pb2 import GcsNodeInfo
from ray.exceptions import AuthenticationError, RayError

from raypose.console import status
from raypose.errors import ResourceError, UsageError
from raypose.runtime.connection import REFUSED

__all__ = ["await_notice", "drain", "drain_node"]

METADATA = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""In the environment, as for boto3: where the metadata of a machine of AWS are."""
NOTICE = "/latest/meta-data/spot/instance-action"
NOTICE_S = 120.0
"""No notice is given earlier."""
PERIOD_S = 5.0
TIMEOUT_S = 10


def drain(address: str, *, deadline_s: float, why: str, node: str = "") -> str:
    """Tell Ray that a node goes; return its id.

    Args:
        address: of the cluster's head, host:port.
        deadline_s: when, from now.
        why: in a few words.
        node: first digits of its id; by default it is the one on this machine.

    Raises:
        UsageError: where it is not clear which.
        ResourceError: where the cluster does not answer, or does not let it go.
    """
    try:
        infos = GcsClient(address=address).get_all_node_info(timeout=TIMEOUT_S)
        alive = {k.hex(): v for k, v in infos.items() if v.state == GcsNodeInfo.ALIVE}
        found = _meant(alive, node)
        drain_node(address, found, deadline_s, why)
    except AuthenticationError:
        raise ResourceError(f"{address}: {REFUSED}") from None
    except (RayError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ResourceError(f"{address}: no Ray cluster answers ({reason})") from None
    return found


def _meant(alive: dict[str, Any], node: str) -> str:
    """Return the id of the node that is named, or of the one on this machine."""
    here = socket.gethostname()
    found = [
        name
        for name, info in alive.items()
        if (name.startswith(node) if node else info.node_manager_hostname == here)
        and not info.is_head_node
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"node: may be any of {', '.join(one[:12] for one in found)}; name one")
    what = f"{node!r}" if node else f"on {here}"
    raise UsageError(
        f"node: none {what} that may go: {len(alive)} nodes are alive, and the head stays"
    )


def drain_node(address: str, node_id: str, deadline_s: float, why: str) -> None:
    """Tell Ray that a node goes, as `ray drain-node` does: see `drain`."""
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + deadline_s) * 1000)
    accepted, refusal = GcsClient(address=address).drain_node(node_id, reason, why, deadline)
    if not accepted:
        raise ResourceError(f"node {node_id[:12]}: Ray does not let it go: {refusal}")


def await_notice() -> float:
    """Wait until AWS announces that this spot machine is taken back; return the seconds left.

    Whatever else its metadata answer is asked again, and said once.

    Source: the EC2 user guide, "Spot Instance interruption notices"; version 2 of its metadata.
    """
    base = os.environ.get(METADATA, "http://169.254.169.254").rstrip("/")
    told = False
    while True:
        try:
            left = _noticed(base)
        except (OSError, HTTPException, OverflowError, RecursionError, ValueError) as error:
            left = None
            if not told:
                reason = " ".join(str(error).split())[:120]
                status(f"{base}: no metadata of AWS ({reason}); asked again", level="warning")
                told = True
        if left is not None:
            return left
        time.sleep(PERIOD_S)


def _noticed(base: str) -> float | None:
    """Return the seconds left to this machine; None where nothing is announced."""
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _answer(f"{base}/latest/api/token", ttl, method="PUT").strip()
    try:
        text = _answer(f"{base}{NOTICE}", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    notice = json.loads(text)
    if not isinstance(notice, dict):
        raise ValueError("a notice that is none")
    at = datetime.fromisoformat(str(notice.get("time")))
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(NOTICE_S, max(1.0, (at - datetime.now(UTC)).total_seconds()))


def _answer(url: str, headers: dict[str, str], *, method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    with opener.open(request, timeout=PERIOD_S) as answer:
        return str(answer.read(1 << 16).decode())
