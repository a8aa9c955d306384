"""A node that is about to go: how that is heard, and told to Ray.

Ray then begins nothing new on it, and runs that train there write a checkpoint at once. Kubernetes
tells a pod before it ends, by a hook; AWS puts a note into the metadata of a spot machine, two
minutes before it is taken back.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from raypose.errors import ResourceError

__all__ = ["await_notice", "drain", "drain_node"]

METADATA = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""In the environment, as for boto3: where the metadata of a machine of AWS are."""
NOTICE = "/latest/meta-data/spot/instance-action"
PERIOD_S = 5.0
TOKEN_S = 21600


def drain(deadline_s: float, why: str) -> str:
    """Tell Ray that the node of this process goes; return its id.

    Args:
        deadline_s: when, from now.
        why: in a few words.

    Raises:
        ResourceError: where Ray does not accept it.
    """
    node_id = str(ray.get_runtime_context().get_node_id())
    drain_node(ray.get_runtime_context().gcs_address, node_id, deadline_s, why)
    return node_id


def drain_node(address: str, node_id: str, deadline_s: float, why: str) -> None:
    """Tell Ray that a node goes, as `ray drain-node` does: see `drain`.

    Args:
        address: of the cluster's head, host:port.
        node_id: in hex.
        deadline_s: when, from now.
        why: in a few words.
    """
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + deadline_s) * 1000)
    accepted, refusal = GcsClient(address=address).drain_node(node_id, reason, why, deadline)
    if not accepted:
        raise ResourceError(f"node {node_id[:12]}: Ray does not let it go: {refusal}")


def await_notice() -> float:
    """Wait until AWS announces that this spot machine is taken back; return the seconds left.

    Source: the EC2 user guide, "Spot Instance interruption notices"; version 2 of its metadata.
    """
    base = os.environ.get(METADATA, "http://169.254.169.254").rstrip("/")
    token, asked = "", -TOKEN_S / 2
    while True:
        try:
            if time.monotonic() - asked > TOKEN_S / 2:
                head = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
                token = _answer(f"{base}/latest/api/token", head, method="PUT")
                asked = time.monotonic()
            notice = json.loads(_answer(f"{base}{NOTICE}", {"X-aws-ec2-metadata-token": token}))
            return _left(notice)
        except (OSError, ValueError):  # none yet, or a machine that has no such thing
            time.sleep(PERIOD_S)


def _answer(url: str, headers: dict[str, str], *, method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    with opener.open(request, timeout=PERIOD_S) as answer:
        return str(answer.read().decode())


def _left(notice: Any) -> float:
    if not isinstance(notice, dict):
        raise ValueError("no notice")
    at = datetime.fromisoformat(str(notice.get("time")))
    return max(1.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())
