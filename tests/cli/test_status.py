"""`status`: each part by itself, and all of them on one screen."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from support import searches
from support.commands import run

from raypose import storage
from raypose.cli import places, status
from raypose.cli.main import main
from raypose.config import Config, override
from raypose.data import claims

NOBODY = "127.0.0.1:1"
NODES = {"data": {"result": {"result": [
    {"state": "ALIVE", "resources_total": {"CPU": 4.0}},
    {"state": "ALIVE", "resources_total": {"CPU": 2.0}},
    {"state": "DEAD", "resources_total": {"CPU": 64.0}},
]}}}  # fmt: skip
STATUS = {"loadMetricsReport": {"usage": {"CPU": [3.0, 6.0]}}}
"""As a job server says it."""


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAYPOSE_JOBS", "RAYPOSE_STORAGE"):
        monkeypatch.delenv(name, raising=False)


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["status", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@contextmanager
def answering(content: bytes | dict[str, bytes]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(
                content[self.path.partition("?")[0]] if isinstance(content, dict) else content
            )

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def test_where_nothing_is_each_part_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["status", f"storage={tmp_path}", "serve.port=1"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cluster   none named: cluster.address or cluster.jobs, RAY_ADDRESS or RAYPOSE_JOBS",
        "jobs      no server named: cluster.jobs, or RAYPOSE_JOBS",
        f"searches  0 under way in {tmp_path}",
        f"runs      0 without a result in {tmp_path}",
        "endpoint  none answers at http://127.0.0.1:1 (Connection refused)",
    ]
    found = asked(capsys, *words[1:])
    assert found == {
        "storage": str(tmp_path), "cluster": None, "jobs": None, "searches": [], "runs": [],
        "endpoint": {"url": "http://127.0.0.1:1", "up": False},
    }  # fmt: skip


def test_a_part_that_fails_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "searches" / "torn-1a2b3c4d").mkdir(parents=True)
    (tmp_path / "searches" / "torn-1a2b3c4d" / claims.CLAIM).write_text("{")
    monkeypatch.setenv("RAY_ADDRESS", NOBODY)
    found = asked(capsys, f"storage={tmp_path}", f"cluster.jobs=http://{NOBODY}", "serve.port=1")
    assert found["cluster"]["error"].startswith(f"ResourceError: {NOBODY}: nobody answers (")
    assert found["jobs"]["error"].startswith(f"ResourceError: http://{NOBODY}: nobody answers (")
    assert found["searches"]["error"].startswith("DataError: ")
    assert found["runs"] == []
    assert main(["status", f"storage={tmp_path}", "serve.port=1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_searches_and_runs_that_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path)
    url = searches.search(root)
    searches.search(root, "over")
    searches.write(url, [searches.trial(k, state="finished", scores={1: 0.5}) for k in range(3)])
    storage.write_json(f"{root}/runs/done-1/result.json", {})
    storage.write_json(f"{root}/runs/cut-1/checkpoints/step-0000003/state.json", {"epoch": 1})
    with claims.hold(url, what="it"):
        found = asked(capsys, f"storage={root}", "serve.port=1")
        assert main(["status", f"storage={root}", "serve.port=1"]) == 0
    (search,) = found["searches"]
    assert (search["search"], search["state"], search["score"]) == ("postures-1a2b3c4d", "running",
                                                                    0.5)  # fmt: skip
    (row,) = found["runs"]
    assert (row["run"], row["epochs"]) == ("cut-1", 1)
    lines = capsys.readouterr().out.splitlines()
    assert "          postures-1a2b3c4d  3 trials: 3 finished  best 0.5000" in lines
    assert any(line.startswith("          cut-1  after 1 epoch  last written ") for line in lines)


def test_an_endpoint_is_known_by_its_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"storage={tmp_path}"
    with answering(b'{"status": "ok", "release": "postures:v3"}') as port:
        found = asked(capsys, at, f"serve.port={port}", "serve.host=0.0.0.0")
    url = f"http://127.0.0.1:{port}"
    assert found["endpoint"] == {"url": url, "up": True, "release": "postures:v3"}
    for other in (b"hello", b'["a list"]', b"{}"):
        with answering(other) as port:
            assert not asked(capsys, at, f"serve.port={port}")["endpoint"]["up"]


def test_an_endpoint_is_where_the_serve_of_a_cluster_listens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with answering(b'{"status": "ok", "release": "postures:v3"}') as port:
        answers = {"/api/version": {"version": "4", "ray_version": ray.__version__},
                   "/api/jobs/": [], "/api/v0/nodes": NODES,
                   "/api/cluster_status": {"data": {"clusterStatus": STATUS}},
                   "/api/serve/applications/":
                       {"http_options": {"port": port}, "applications": {}}}  # fmt: skip
        content = {path: json.dumps(each).encode() for path, each in answers.items()}
        with answering(content) as head:
            at = f"cluster.jobs=http://127.0.0.1:{head}"
            found = asked(capsys, f"storage={tmp_path}", at, "serve.port=1")
    assert found["endpoint"]["url"] == f"http://127.0.0.1:{port}"
    assert found["endpoint"]["release"] == "postures:v3"


def test_what_a_cluster_has_is_told(cluster: None, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    made = override(Config(), {"storage": str(tmp_path), "cluster.address": address})
    document, (line,) = status._cluster(made)
    assert document["nodes"] == 1
    assert document["resources"]["CPU"]["total"] == 8
    assert line.startswith(f"1 node at {address}, free: ")


def test_jobs_that_go_on_come_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    states = [*["SUCCEEDED"] * 6, "RUNNING"]
    jobs = [
        {"type": "SUBMISSION", "submission_id": f"train-{k}", "status": state, "entrypoint": "x",
         "metadata": {"verb": "train", "run": f"r-{k}"}, "start_time": 10**12 - k}
        for k, state in enumerate(states)
    ]  # fmt: skip
    answers = {"/api/version": {"version": "4", "ray_version": ray.__version__, "ray_commit": ""},
               "/api/jobs/": jobs, "/api/v0/nodes": NODES,
               "/api/cluster_status": {"data": {"clusterStatus": STATUS}}}  # fmt: skip
    with answering({path: json.dumps(each).encode() for path, each in answers.items()}) as port:
        address = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("RAYPOSE_JOBS", address)
        found = asked(capsys, f"storage={tmp_path}", "serve.port=1")
        assert main(["status", f"storage={tmp_path}", "serve.port=1"]) == 0
    assert [each["id"] for each in found["jobs"]["shown"]] == [
        "train-6",
        "train-0",
        "train-1",
        "train-2",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert f"jobs      1 of 7 jobs at {address} under way" in lines
    assert lines[2].split()[:2] == ["train-6", "running"]
    # of the cluster itself, as no address names a Ray to connect to
    assert lines[0] == f"cluster   2 nodes at {address}, free: 3 of 6 CPUs"
    assert found["cluster"]["resources"]["GPU"] == {"total": 0.0, "free": None}


@pytest.mark.parametrize("address", ["auto", "local", "head"])
def test_addresses_without_a_port_are_left_to_ray(address: str) -> None:
    places.require_answer(address)


def test_it_answers_as_a_command(raypose: str, tmp_path: Path) -> None:
    done = run(raypose, "status", "serve.port=1", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["endpoint"]["up"] is False
