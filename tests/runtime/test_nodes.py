"""Jobs on a cluster of several nodes: they outlive who submitted them, and nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml
from support.patience import PATIENCE_S, until
from support.processes import descendants, environ_of

from raypose import config, storage, training
from raypose.config import Config
from raypose.runtime.jobs import Client
from raypose.runtime.nodes import Nodes
from raypose.training import tracking
from raypose.tuning import records

pytestmark = pytest.mark.ray


def test_what_its_cluster_has_is_told(client: Client, nodes: Nodes) -> None:
    until(lambda: client.standing().num_nodes == len(nodes.show()["nodes"]))
    seen = client.standing()
    assert seen.total["CPU"] >= 2
    assert until(lambda: client.standing().free.get("CPU")) <= seen.total["CPU"]
    raylet = nodes.show()["nodes"][0]["raylet"]
    assert "RAY_USAGE_STATS_ENABLED=0" in environ_of(raylet)  # nobody else is told of anything


def test_a_job_outlives_who_submitted_it(
    raypose: str, dataset: str, environment: dict[str, str], nodes: Nodes
) -> None:
    """Here by what takes seconds; in `make soak` by a run, which outlives a node too."""
    words = ["shards", "verify", f"{dataset}/train"]
    first, second = _given_twice([raypose, *words], environment)
    head = nodes.show()["nodes"][0]["raylet"]
    shell = f"/bin/sh\0-c\0raypose {' '.join(words)}"
    held = until(
        lambda: [pid for one in descendants(shell, of=head) for pid in descendants("", of=one)],
        every_s=0.01,
    )
    _signal(held, signal.SIGSTOP)
    said = [_until_handed_over(one) for one in (first, second)]
    second.send_signal(signal.SIGINT)
    said[1] += second.communicate(timeout=PATIENCE_S)[0]
    first.kill()
    first.communicate()
    assert second.returncode == 130
    assert sum("is being carried out already" in each for each in said) == 1
    job_id = next(w for w in said[1].split() if w.startswith("shards-verify-"))
    assert f"raypose jobs logs {job_id} shows it" in said[1]
    _signal(held, signal.SIGCONT)
    done = subprocess.run(
        [raypose, "jobs", "logs", job_id], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{dataset}/train: whole; 96 pictures, 12 classes" in done.stdout


def _given_twice(command: list[str], environment: dict[str, str]) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]


def _until_handed_over(process: subprocess.Popen[str]) -> str:
    """Return what a client has said up to where a job is its own, or another's."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if "was handed over" in line or "is being carried out already" in line:
            break
    return said


def test_a_finished_run_is_found_by_a_job(trained: Config, client: Client) -> None:
    place = f"{trained.storage}/again.yaml"
    storage.write_bytes(place, yaml.safe_dump(config.sparse(trained)).encode())
    log = _submitted(client, f"python train.py {place}")
    assert f"{trained.run_id} is finished already" in log


@pytest.mark.soak
def test_a_run_outlives_who_submitted_it_and_a_node(
    raypose: str,
    recipe: Config,
    cluster: None,
    nodes: Nodes,
    environment: dict[str, str],
    client: Client,
) -> None:
    asked = config.override(recipe, {"optim.epochs": 16, "train.num_workers": 3})
    nodes.up(3, num_cpus=2)
    alone = config.override(asked, {"name": "alone", "train.num_workers": 1})
    undisturbed = training.train(alone, in_process=True)
    place = f"{recipe.storage}/r.yaml"
    storage.write_bytes(place, yaml.safe_dump(config.sparse(asked)).encode())
    first, second = _given_twice([raypose, "train", place], environment)
    url = f"{training.locate(asked).url}/metrics.jsonl"
    until(lambda: storage.is_file(url) and tracking.read(url), every_s=0.01)
    held = _workers(nodes)  # it lasts until all has been done to it
    _signal(held, signal.SIGSTOP)
    second.send_signal(signal.SIGINT)
    said = second.communicate(timeout=PATIENCE_S)[0]
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
    _signal(held, signal.SIGCONT)
    done = subprocess.run(
        [raypose, "jobs", "logs", job_id], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 1/16" in done.stderr  # from its beginning
    assert f"{asked.run_id}  best epoch" in done.stdout
    lines = tracking.read(url)
    assert [line["epoch"] for line in lines] == list(range(1, 17))
    of_nodes = training.finished(asked)
    assert of_nodes is not None
    for key in ("train_loss", "val_nll"):  # by several workers, and parts of it twice
        assert of_nodes.metrics[key] == pytest.approx(undisturbed.metrics[key], rel=0.05)
    again = _submitted(client, f"python train.py {place}")
    assert f"{asked.run_id} is finished already" in again


TRAINER = {"trainer": 1.0}
"""What nodes have that come and go here: a group that asks for it lives on them alone."""


@pytest.mark.soak
def test_nodes_that_come_are_used_and_those_that_go_cost_nothing(
    raypose: str, recipe: Config, nodes: Nodes, environment: dict[str, str]
) -> None:
    """By a run and by a search, side by side; both end as if nothing had been."""
    nodes.up(2, num_cpus=4)
    first = nodes.add(num_cpus=3, resources=TRAINER)
    elastic = {"train.num_workers": [1, 2], "train.resources": TRAINER, "optim.epochs": 2000}
    asked = config.override(recipe, {"name": "elastic", **elastic, "train.patience": 60})
    space = {"optim.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    settings = {"space": space, "num_trials": 6, "reduction_factor": 0, "finalists": 0}
    searched = config.override(recipe, {"name": "wide", "search": settings, "optim.epochs": 4})
    begun = {}
    environment |= {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "150"}  # on so small a machine
    for verb, one in (("train", asked), ("search", searched)):
        place = f"{recipe.storage}/{one.name}.yaml"
        storage.write_bytes(place, yaml.safe_dump(config.sparse(one)).encode())
        begun[verb] = subprocess.Popen(
            [raypose, verb, place, "cluster.env=RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"],
            env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    url = f"{training.locate(asked).url}/metrics.jsonl"
    until(lambda: storage.is_file(url) and tracking.read(url), begun["train"])
    nodes.add(num_cpus=3, resources=TRAINER)
    until(lambda: len(_workers(nodes)) == 2, begun["train"])
    seen = len(tracking.read(url))
    until(lambda: len(tracking.read(url)) > seen + 3, begun["train"])  # both train by now
    nodes.drain(first, deadline_s=60)
    time.sleep(20)  # of its minute
    nodes.remove(first)
    until(lambda: len(_workers(nodes)) == 1, begun["train"])
    told = {verb: process.communicate(timeout=PATIENCE_S)[0] for verb, process in begun.items()}
    assert begun["search"].returncode == 0, told["search"]
    assert begun["train"].returncode == 0, told["train"]
    assert "resumes on 2 workers where it was 1" in told["train"]
    assert "a node is about to go: checkpoint at step" in told["train"]
    lines = tracking.read(url)
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert all(line["num_bad"] == 0 for line in lines)
    trials = records.read_trials(storage.join(searched.storage, "searches", searched.search_id))
    assert {number: t.state for number, t in trials.items()} == dict.fromkeys(range(6), "finished")


def _workers(nodes: Nodes) -> list[int]:
    """Return the training workers there are."""
    return [
        pid
        for node in nodes.show()["nodes"]
        for pid in descendants("ray::RayTrainWorker", of=node["raylet"])
    ]


def _signal(processes: list[int], number: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


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
