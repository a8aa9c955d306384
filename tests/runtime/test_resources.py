"""What is not free is waited for in the open; what could never be is refused at once."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator

import pytest
import ray
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from raypose import runtime
from raypose.errors import ResourceError
from raypose.runtime import resources


@pytest.fixture
def growing(cluster: None) -> Iterator[None]:
    """The cluster says that it may grow, as an autoscaler has it say."""
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    grown = autoscaler_pb2.ClusterConfig(max_resources={"CPU": 640, "GPU": 4})
    group = grown.node_group_configs.add(name="gpus", max_count=4)
    group.resources.update({"CPU": 160, "GPU": 1})
    client.report_cluster_config(grown.SerializeToString())
    yield
    client.report_cluster_config(autoscaler_pb2.ClusterConfig().SerializeToString())


def test_what_a_cluster_may_grow_to_is_not_refused(growing: None) -> None:
    assert runtime.wants_gpu(None, count=4)
    assert not runtime.wants_gpu(None, count=5)
    runtime.require({"GPU": 4, "CPU": 300}, what="it", mend="less")
    with pytest.raises(ResourceError, match=r"it needs 5 GPUs at once .* has 0, and may grow to 4"):
        runtime.require({"GPU": 5}, what="it", mend="less")


def test_a_resource_that_no_node_has_is_named(cluster: None) -> None:
    with pytest.raises(ResourceError, match="it needs 2 of the resource 'nosuch' at once"):
        runtime.require({"nosuch": 2}, what="it", mend="less")


def test_what_does_not_come_is_given_up(growing: None, capsys: pytest.CaptureFixture[str]) -> None:
    message = r"it waited \d+ s \(cluster.max_wait_s\): .*1 GPUs wanted, 0 of 0 free, may grow to 4"
    with pytest.raises(ResourceError, match=message):
        runtime.wait_for([{"CPU": 1.0, "GPU": 1.0}], what="it", max_wait_s=3)
    assert "it waits, " in capsys.readouterr().err


def test_what_is_not_free_is_waited_for(
    cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "TELL_S", 1.0)
    there = int(ray.available_resources()["CPU"])  # workers of other tests may be kept
    free = threading.Event()

    @ray.remote(num_cpus=there - 1)
    class Holder:
        def ready(self) -> str:
            return json.dumps("held")

    holder = Holder.remote()
    ray.get(holder.ready.remote())
    thread = threading.Timer(4.0, lambda: (free.set(), ray.kill(holder)))
    thread.start()
    runtime.wait_for([{"CPU": 1.0}] * there, what="it", max_wait_s=120)
    assert free.is_set()
    told = capsys.readouterr().err
    assert re.search(rf"it waits, \d+ s so far: {there} CPUs wanted, ", told)
    runtime.wait_for([{"CPU": 1.0}] * there, what="it", max_wait_s=120)  # nothing is held
