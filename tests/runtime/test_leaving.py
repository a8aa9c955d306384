"""A node that goes: heard from a server that answers as AWS's metadata do, told to a real Ray."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from support.patience import PATIENCE_S

from raypose.runtime import leaving
from raypose.runtime.nodes import Nodes


class Metadata(BaseHTTPRequestHandler):
    """Gives a token, and with it what there is to be said in turn."""

    answers: ClassVar[list[tuple[int, str]]] = []
    refused = 0
    """Tokens that count no more."""

    def do_PUT(self) -> None:
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self._answer(200 if self.path == "/latest/api/token" else 404, "secret")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "secret":
            self._answer(401, "")
        elif self.refused:
            type(self).refused -= 1
            self._answer(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action":
            self._answer(404, "")
        else:
            self._answer(*(self.answers.pop(0) if self.answers[1:] else self.answers[0]))

    def _answer(self, code: int, text: str) -> None:
        if code < 0:
            self.wfile.write(text.encode())
            return
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(leaving.METADATA, f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing of it is to be asked
    monkeypatch.setattr(leaving, "PERIOD_S", 0.05)
    yield
    server.shutdown()


def notice(seconds: float) -> str:
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")})


ODD = ["", "{", "[]", "{}", '{"time": "soon"}', "[" * 60_000, '{"time": 1e99}',
       '{"time": null}']  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_a_notice_is_awaited(metadata: None, odd: str) -> None:
    Metadata.answers = [(404, "Not Found"), (500, ""), (200, odd), (200, notice(120))]
    assert 110 < leaving.await_notice() <= 120


def test_a_token_that_is_refused_is_asked_for_again(
    metadata: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Metadata.answers = [(200, notice(60))]
    monkeypatch.setattr(Metadata, "refused", 2)
    assert 50 < leaving.await_notice() <= 60


def test_times_without_a_zone_are_utc_and_none_is_far_away(
    metadata: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    Metadata.answers = [(200, notice(60).replace("Z", ""))]
    assert 50 < leaving.await_notice() <= 60
    Metadata.answers = [(200, notice(1e6))]
    assert leaving.await_notice() == leaving.NOTICE_S
    monkeypatch.undo()
    time.tzset()


def test_what_does_not_speak_http_is_asked_again(
    metadata: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Metadata.answers = [(-1, "SMTP"), (-1, ""), (200, notice(60))]
    assert leaving.await_notice() > 50
    assert capsys.readouterr().err.count("no metadata of AWS") == 1


def test_one_that_comes_late_still_leaves_a_moment(metadata: None) -> None:
    Metadata.answers = [(200, notice(-30))]
    assert leaving.await_notice() == 1.0


@pytest.mark.own
def test_a_node_that_goes_is_told_to_ray(raypose: str, metadata: None, tmp_path: Path) -> None:
    Metadata.answers = [(200, notice(120))]
    nodes = Nodes(tmp_path / "cluster")

    def drain(*pairs: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [raypose, "cluster", "drain", f"cluster.address={address}", "--json", *pairs]
        env = {**os.environ, **nodes.environment(), **variables}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE_S)

    try:
        nodes.up(1, num_cpus=2)
        address = nodes.show()["address"]
        alone = drain()  # the head alone: without it there is no cluster
        assert alone.returncode == 2
        assert "the head stays" in alone.stderr
        nodes.up(2, num_cpus=2)
        raylet = psutil.Process(nodes.show()["nodes"][1]["raylet"])
        refused = drain(RAY_AUTH_TOKEN="wrong")
        assert refused.returncode == 5
        assert "Ray refuses the token" in refused.stderr
        done = drain("notice=aws")
        assert done.returncode == 0, done.stderr
        assert 60 < json.loads(done.stdout)["deadline_s"] <= 120
        began = time.monotonic()
        while raylet.is_running() and raylet.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() - began < 100  # idle, and told to go, it ends by itself
            time.sleep(0.2)
    finally:
        nodes.down()


@pytest.mark.parametrize("pairs", [(), ("cluster.address=127.0.0.1:1",)])
def test_where_no_cluster_is_nothing_is_waited_for(
    raypose: str, pairs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    command = [raypose, "cluster", "drain", *pairs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == (5 if pairs else 2)
    assert ("nobody answers" if pairs else "names no cluster") in done.stderr
    assert done.stderr.count("\n") <= 2
