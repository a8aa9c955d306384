"""`raypose deploy` and `raypose endpoint` on a cluster: a real head, Serve's REST, real HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from support import loads
from support.patience import until
from support.pictures import encoded, photo
from support.variants import altered, broken, promoted

from raypose import config, storage
from raypose.config import Config
from raypose.errors import ConflictError
from raypose.releases import registry
from raypose.runtime.jobs import Client
from raypose.runtime.nodes import Nodes
from raypose.serving import app, described, guard, rest
from raypose.serving.remote import KEY, Endpoint
from raypose.serving.rest import Rest

ROOT = Path(__file__).parents[2]
OURS = guard.made()
"""Our API key."""
KEYS = f"serve.keys={{tests: {guard.digest(OURS)}}}"
pytestmark = pytest.mark.ray
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
    return found


@pytest.fixture(scope="module")
def command(nodes: Nodes, port: int, own: Config) -> Iterator[Run]:
    """Calls raypose in a process of its own, and returns its answer, or what it said."""
    raypose = str(Path(os.sys.executable).parent / "raypose")
    where = [f"serve.url=http://127.0.0.1:{port}"]

    def run(*words: str, code: int = 0, key: str = OURS) -> dict[str, Any]:
        done = subprocess.run(
            [raypose, "--json", *words, *where],
            env={**os.environ, **nodes.environment(), KEY: key},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        answer: dict[str, Any] = json.loads(done.stdout) if code == 0 else {"said": done.stderr}
        return answer

    yield run
    run("endpoint", "delete")
    run("endpoint", "status", code=3)


@pytest.fixture(scope="module")
def standing(command: Run, port: int, own: Config, nodes: Nodes) -> str:
    """An endpoint that asks for a key, whose maker has gone, and had none; its address."""
    seen = command("deploy", "tiny@production", *_pairs(own, port), KEYS, key="")
    assert (seen["state"], seen["release"]) == ("running", "tiny@production")
    assert f"wants an API key; set {KEY} to one" in seen["message"]
    seen = command("endpoint", "status")
    assert [each["release"] for each in seen["replicas"]] == [_production(own)]
    sizes = {"min_replicas": 1, "max_replicas": 2}
    given = {"cpus_per_replica": 0.25, "poll_s": 0.5, "keys": ["tests"]}
    assert seen["settings"] == {**given, **sizes}
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def deployed(standing: str, own: Config) -> str:
    """The same, once it answers with what is in production: it may still be on its way there."""
    until(lambda: ask(standing).json().get("release") == _production(own))
    return standing


def _pairs(own: Config, port: int) -> list[str]:
    return [
        f"storage={own.storage}",
        f"serve.port={port}",
        "serve.proxies=head",
        "serve.cpus_per_replica=0.25",
        "serve.poll_s=0.5",
    ]


def _production(own: Config) -> str:
    return str(registry.resolve(own.storage, "tiny@production"))


def ask(url: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {OURS}"}
    return httpx.post(f"{url}/v1/classify", content=encoded(photo()), timeout=60, headers=headers)


def under(url: str, **how: Any) -> AbstractContextManager[loads.Load]:
    """Clients ask for postures meanwhile: see `loads.going`."""
    return loads.going(f"{url}/v1/classify", [encoded(photo())], key=OURS, **how)


def test_it_outlives_its_maker(deployed: str, command: Run, own: Config) -> None:
    answer = ask(deployed)
    assert answer.status_code == 200
    assert answer.json()["release"] == _production(own)
    seen = command("endpoint", "status")
    assert (seen["state"], seen["release"]) == ("running", "tiny@production")
    (replica,) = seen["replicas"]
    assert replica["follows"] == "tiny@production"
    assert replica["releases"][_production(own)]["answers"] >= 1
    (log,) = command("endpoint", "logs")["logs"].values()
    assert "Traceback" not in log


def test_a_change_of_release_starts_no_process(deployed: str, command: Run, own: Config) -> None:
    first = registry.resolve(own.storage, "tiny@production")
    other = altered(own.storage, first, note="another")
    (before,) = command("endpoint", "status")["replicas"]
    with under(deployed, num_clients=2) as load:
        seen = command("endpoint", "update", str(other))
        load.answers(str(other))
        command("endpoint", "update", "tiny@production")
    (after,) = seen["replicas"]
    assert (after["release"], after["replica"]) == (str(other), before["replica"])
    assert after["follows"] == ""
    assert load.failed() == []
    assert ask(deployed).json()["release"] == str(first)


def test_a_broken_release_is_refused_and_the_last_is_back(
    deployed: str, command: Run, own: Config
) -> None:
    first = registry.resolve(own.storage, "tiny@production")
    bad = broken(own.storage, first)
    with under(deployed, num_clients=2) as load:
        said = command("endpoint", "update", str(bad), code=1)["said"]
    assert f"{bad} is refused by replica" in said
    assert said.strip().endswith("what was there before is back")
    assert load.failed() == []
    seen = command("endpoint", "status")
    assert seen["release"] == "tiny@production"
    assert [each["release"] for each in seen["replicas"]] == [str(first)]
    assert [each["proven"] for each in seen["replicas"]] == [True]
    (log,) = command("endpoint", "logs")["logs"].values()
    assert f"{first} is answered with" in log
    assert f"{bad} is refused: " in log


def test_a_release_that_is_refused_is_looked_at_again_where_it_is_asked_for(
    deployed: str, command: Run, own: Config
) -> None:
    first = registry.resolve(own.storage, "tiny@production")
    mended = altered(own.storage, first, note="mended")
    url = storage.join(mended.url, "README.md")
    whole = storage.read_bytes(url)
    storage.write_bytes(url, b"torn")
    with promoted(own.storage, str(mended)):
        refused: dict[str, str] = {}
        while str(mended) not in refused:
            (replica,) = command("endpoint", "status")["replicas"]
            refused = replica["refused"]
        assert "README.md is not what was published" in refused[str(mended)]
        storage.write_bytes(url, whole)
        (replica,) = command("endpoint", "update", "tiny@production")["replicas"]
        assert replica["release"] == str(mended)
        assert str(mended) not in replica["refused"]  # others may be, by tests before this one
    assert ask(deployed).json()["release"] in (str(first), str(mended))


def test_who_has_no_key_changes_nothing_and_learns_what_anyone_may(
    deployed: str, command: Run, own: Config, port: int
) -> None:
    other = altered(own.storage, registry.resolve(own.storage, "tiny@production"), note="keyless")
    assert httpx.get(f"{deployed}/v1/status").status_code == 401
    said = command("endpoint", "update", str(other), code=5, key="")["said"]
    assert f"wants an API key; set {KEY} to one" in said
    said = command("deploy", "tiny@production", *_pairs(own, port), code=2)["said"]
    assert "the endpoint there asks for API keys, and this names none" in said
    seen = command("endpoint", "status", key="")
    assert (seen["state"], seen["release"]) == ("running", "tiny@production")
    assert [each for each in seen["replicas"] if "releases" in each] == []
    (replica,) = command("endpoint", "status")["replicas"]
    assert replica["release"] == _production(own)


def test_what_changes_while_something_runs_is_put_back() -> None:
    """Serve says the same of what never ran and of a change of what runs."""
    replicas = {"Ingress": {"replicas": [{"state": "RUNNING"}, {"state": "STARTING"}]}}
    assert rest.answers({"status": "DEPLOYING", "deployments": replicas})
    replicas["Ingress"]["replicas"].pop(0)
    assert not rest.answers({"status": "DEPLOYING", "deployments": replicas})
    assert not rest.answers({"status": "DEPLOYING"})


class Overtaken(Rest):
    """Serve where another changes the endpoint just after a change of ours."""

    meanwhile: Callable[[], object] | None = None

    def put(self, application: dict[str, Any] | None, *options: Any) -> None:
        super().put(application, *options)
        if self.meanwhile:
            change, self.meanwhile = self.meanwhile, None
            change()


def test_a_change_that_another_overtakes_is_not_undone(
    deployed: str,
    command: Run,
    own: Config,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY, OURS)
    first = registry.resolve(own.storage, "tiny@production")
    ours, theirs = (altered(own.storage, first, note=note) for note in ("ours", "theirs"))
    asked = config.override(own, {"serve.url": deployed})
    endpoint = Endpoint(client.address, asked)
    endpoint.rest = overtaken = Overtaken(client.address, asked.cluster.max_wait_s)
    overtaken.meanwhile = lambda: Endpoint(client.address, asked).update(str(theirs))
    with pytest.raises(ConflictError, match="another change came after this one, and is in force"):
        endpoint.update(str(ours))
    assert ask(deployed).json()["release"] == str(theirs)
    assert command("endpoint", "status")["release"] == str(theirs)
    command("endpoint", "update", "tiny@production")


def test_a_promotion_is_followed(deployed: str, command: Run, own: Config) -> None:
    first = registry.resolve(own.storage, "tiny@production")
    other = altered(own.storage, first, note="promoted")
    with under(deployed, num_clients=2) as load:
        with promoted(own.storage, str(other)):
            load.answers(str(other))
        load.answers(str(first))
    assert load.failed() == []


def alive(client: Client) -> set[str]:
    """Ids of the nodes that the cluster has."""
    found = client.request("GET", "/api/v0/nodes", limit="1000").json()["data"]["result"]["result"]
    return {node["node_id"] for node in found if node["state"] == "ALIVE"}


def test_it_grows_and_shrinks_and_loses_a_node_at_no_cost_to_those_who_ask_again(
    deployed: str, command: Run, own: Config, nodes: Nodes, client: Client, campaign_round: int
) -> None:
    nodes.up(2, num_cpus=2)
    before = alive(client)
    with under(deployed) as load:
        seen = command("endpoint", "scale", "min=3")
        assert seen["settings"]["max_replicas"] == 3  # which was two: no fewer than three
        running = [each for each in seen["replicas"] if each["state"] == "running"]
        assert len(running) == 3
        name = _production(own)
        told = [each["releases"][name] for each in running if name in each.get("releases", {})]
        total, means = seen["releases"][name], [figures["mean_ms"] for figures in told]
        assert total["answers"] == sum(figures["answers"] for figures in told) > 0
        assert min(means) - 0.01 <= total["mean_ms"] <= max(means) + 0.01
    assert load.failed() == []
    with under(deployed, retries=8) as load:
        load.wait(20)
        nodes.remove(nodes.show()["nodes"][-1]["number"])
        while len(alive(client)) == len(before):
            load.wait(1)
        where: list[str] = [""]
        while len(where) != 3 or not set(where) <= alive(client):
            found = command("endpoint", "status")["replicas"]
            where = [each["node"] for each in found if each["state"] == "running"]
        load.wait(20)
    assert load.failed() == []
    with under(deployed) as load:
        seen = command("endpoint", "scale", "max=1")
        assert seen["settings"]["min_replicas"] == 1
        while len(command("endpoint", "status")["replicas"]) > 1:
            load.wait(1)
    assert load.failed() == []


def test_a_scale_that_is_none_is_refused(command: Run) -> None:
    said = command("endpoint", "scale", code=2)["said"]
    assert "give min=, max= or both" in said
    said = command("endpoint", "scale", "min=3", "max=2", code=2)["said"]
    assert "min=3 is more than max=2" in said


def test_what_cannot_be_deployed(command: Run, port: int, own: Config, tmp_path: Path) -> None:
    pairs = [f"storage={own.storage}", f"serve.port={port}"]
    assert 'no release "tini"' in command("deploy", "tini", *pairs, code=3)["said"]
    said = command("deploy", "tiny", *pairs, "serve.host=0.0.0.0", code=3)["said"]
    assert "others could reach it, and no API key is set" in said
    copy = registry.fetch(registry.resolve(own.storage, "tiny"), tmp_path / "copy")
    assert "lies on this machine" in command("deploy", str(copy), *pairs, code=2)["said"]
    assert "lies on this machine" in command("endpoint", "update", str(copy), code=2)["said"]


def test_the_files_are_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """serve/config.yaml and KubeRay's service are what `raypose deploy --print` prints."""
    from raypose.cli.main import main

    words = ["deploy", "postures@production", "storage=s3://my-bucket", "--print"]
    assert main(words) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    text = (ROOT / "serve/config.yaml").read_text()
    assert yaml.safe_load(text) == printed
    assert " ".join(["raypose", *words]) in text
    service = yaml.safe_load((ROOT / "cluster/kuberay/base/service.yaml").read_text())
    open_to_all = ["serve.host=0.0.0.0", "serve.keys_env=RAYPOSE_KEYS"]
    assert main([*words, *open_to_all]) == 0
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == yaml.safe_load(
        capsys.readouterr().out
    )


def test_what_is_printed_is_what_serve_takes() -> None:
    from ray._common.utils import import_attr
    from ray.serve.schema import ServeDeploySchema

    settings = {"serve.min_replicas": 0, "serve.keys_env": "KEYS", "serve.host": "0.0.0.0"}
    made = described.document(config.override(Config(), settings), "a@b")
    (application,) = ServeDeploySchema.model_validate(made).applications
    assert import_attr(application.import_path) is app.build
    arguments = app.Arguments.model_validate(application.args)
    assert arguments.serve.model_dump(exclude_defaults=True) == {
        name.removeprefix("serve."): value for name, value in settings.items()
    }
