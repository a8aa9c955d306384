"""`raypose serve` in a process of its own, with HAProxy before it; and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support import hostile
from support.patience import PATIENCE_S, until
from support.pictures import encoded, photo
from support.processes import none_left
from support.variants import altered, promoted

from raypose.config import Config
from raypose.releases import registry
from raypose.serving import guard

pytestmark = pytest.mark.ray
PICTURE = encoded(photo())


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for temporary files whose path leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="rp-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_haproxy_takes_the_connections(
    raypose: str, own: Config, short: Path, campaign_round: int
) -> None:
    """Behind a key, from one release to the next, until Ctrl-C."""
    before = set(Path("/tmp").glob("rp-*"))
    mark, key = f"mark-{uuid.uuid4().hex}", guard.made()
    environment = {**os.environ, "MARK": mark, "TMPDIR": str(short)}
    words = ["serve", "tiny", f"storage={own.storage}", "serve.proxy=haproxy", "serve.port=0"]
    words += ["serve.poll_s=0.5", f"serve.keys={{clinic: {guard.digest(key)}}}"]
    serving = subprocess.Popen(
        [raypose, "--json", *words],
        env={name: value for name, value in environment.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert serving.stdout is not None
    assert serving.stderr is not None
    said: list[str] = []
    listening = threading.Thread(target=said.extend, args=(serving.stderr,))
    listening.start()
    try:
        line = serving.stdout.readline()
        assert line, "".join(said)
        url = json.loads(line)["url"]
        first = registry.resolve(own.storage, "tiny")
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            for _ in range(40):
                answer = client.post(f"{url}/v1/classify", content=PICTURE)
                assert (answer.status_code, answer.json()["release"]) == (200, str(first))
            assert client.post(f"{url}/v1/classify", content=b"<html>").status_code == 400
        assert httpx.post(f"{url}/v1/classify", content=PICTURE).status_code == 401
        assert httpx.get(f"{url}/healthz").status_code == 200
        answer = httpx.get(f"{url}/v1/status")
        assert (answer.status_code, "no valid API key" in answer.json()["error"]) == (401, True)
        # who goes on sending may lose the words of a refusal to the end of the connection
        assert hostile.declared(f"{url}/v1/classify").status == 413
        size = {"Content-Length": str(hostile.HUGE)}
        reply = hostile.exchange(url, hostile.head(f"{url}/v1/classify", size), [])
        assert (reply.status, "larger than 16777216 bytes" in reply.answer) == (413, True)
        second = altered(own.storage, first, note="second")
        with promoted(own.storage, str(second)):
            until(lambda: any(f"{second} is answered with" in line for line in said))
    finally:
        serving.send_signal(signal.SIGINT)
        code = serving.wait(timeout=PATIENCE_S)
        listening.join()
    assert code == 130, "".join(said)
    assert "Traceback" not in "".join(said)
    assert key not in "".join(said)
    assert none_left(mark)
    assert set(Path("/tmp").glob("rp-*")) <= before | {short}
