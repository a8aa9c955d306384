"""Jobs on a cluster of several nodes: they outlive who submitted them, and nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support.processes import descendants

from raypose import config, storage, training
from raypose.config import Config
from raypose.runtime.jobs import Client
from raypose.runtime.nodes import Nodes
from raypose.training import tracking

pytestmark = pytest.mark.ray
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def nodes(s3: str, cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Three nodes, started after S3, so that their workers inherit the variables."""
    made = Nodes(tmp_path_factory.mktemp("nodes"))
    made.up(3, num_cpus=2)
    yield made
    made.down()


@pytest.fixture
def environment(nodes: Nodes) -> dict[str, str]:
    return {**os.environ, **nodes.environment()}


@pytest.fixture
def client(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name, value in nodes.environment().items():
        monkeypatch.setenv(name, value)
    return Client(nodes.show()["jobs"])


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def test_a_job_outlives_who_submitted_it_and_a_node(
    raypose: str,
    recipe: Config,
    cluster: None,
    nodes: Nodes,
    environment: dict[str, str],
    client: Client,
) -> None:
    asked = config.override(recipe, {"optim.epochs": 8, "train.num_workers": 3})
    alone = config.override(asked, {"name": "alone", "train.num_workers": 1})
    undisturbed = training.train(alone, in_process=True)
    place = f"{recipe.storage}/r.yaml"
    storage.write_bytes(place, yaml.safe_dump(config.sparse(asked)).encode())
    first, second = (
        subprocess.Popen(
            [raypose, "train", place],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    )
    url = f"{training.locate(asked).url}/metrics.jsonl"
    until(lambda: storage.is_file(url) and tracking.read(url))
    second.send_signal(signal.SIGINT)
    said = second.communicate(timeout=60)[0]
    first.kill()
    told = f"{said}\n{first.communicate()[0]}"
    assert second.returncode == 130
    assert "is being carried out already" in told  # one of them found the other's
    job_id = next(w for w in said.split() if w.startswith(f"train-{asked.name}-"))
    assert f"raypose jobs logs {job_id} shows it" in said
    lost = next(
        node["number"]
        for node in nodes.show()["nodes"][1:]
        if descendants("ray::RayTrainWorker", of=node["raylet"])
    )
    nodes.remove(lost)
    done = subprocess.run(
        [raypose, "jobs", "logs", job_id], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 1/8" in done.stderr  # from its beginning
    assert f"{asked.run_id}  best epoch" in done.stdout
    lines = tracking.read(url)
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    of_nodes = training.finished(asked)
    assert of_nodes is not None
    for key in ("train_loss", "val_nll"):  # by three workers, and parts of it twice
        assert of_nodes.metrics[key] == pytest.approx(undisturbed.metrics[key], rel=0.05)
    again = _submitted(client, f"python train.py {place}")
    assert f"{asked.run_id} is finished already" in again


def _submitted(client: Client, entrypoint: str) -> str:
    """Return the log of a command in the folder jobs/, submitted as `ray job submit` does."""
    folder = Path(__file__).parents[2] / "jobs"
    plain = client._client
    job_id = plain.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(folder)})
    job = client.wait(job_id)
    log = client.log(job_id)
    assert job.state == "succeeded", log
    return log


def test_without_the_token_nothing_is_read(
    raypose: str, nodes: Nodes, environment: dict[str, str], tmp_path: Path
) -> None:
    at = nodes.show()["jobs"]
    assert httpx.get(f"{at}/api/jobs/").status_code == 401
    wrong = {"Authorization": "Bearer 00"}
    assert httpx.get(f"{at}/api/jobs/", headers=wrong).status_code == 403
    for name, said in {"": "wants a token", "0" * 64: "refuses the token"}.items():
        bare = {**environment, "RAY_AUTH_TOKEN": name, "HOME": str(tmp_path)}
        del bare["RAY_AUTH_TOKEN_PATH"], bare["RAY_AUTH_MODE"]
        done = subprocess.run([raypose, "jobs"], env=bare, capture_output=True, text=True)
        assert done.returncode == 5
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
