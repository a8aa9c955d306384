"""`raypose serve` in a process of its own, with HAProxy before it; and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support import hostile, loads
from support.pictures import encoded, photo
from support.processes import none_left

from raypose.config import Config
from raypose.releases import registry

pytestmark = pytest.mark.ray
PICTURE = encoded(photo())


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for temporary files whose path leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="rp-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_haproxy_takes_the_connections(
    raypose: str, trained: Config, short: Path, campaign_round: int
) -> None:
    before = set(Path("/tmp").glob("rp-*/*/haproxy.cfg"))
    mark = f"mark-{uuid.uuid4().hex}"
    environment = {**os.environ, "MARK": mark, "TMPDIR": str(short)}
    words = ["serve", "tiny", f"storage={trained.storage}", "serve.proxy=haproxy", "serve.port=0"]
    serving = subprocess.Popen(
        [raypose, "--json", *words],
        env={name: value for name, value in environment.items() if name != "RAY_ADDRESS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        line = serving.stdout.readline()
        assert line, serving.communicate()[1]
        url = json.loads(line)["url"]
        load = loads.sent(f"{url}/v1/classify", [PICTURE], 40)
        assert load.counts() == {200: 40}
        assert str(registry.resolve(trained.storage, "tiny")) in load.asked[0].text
        assert httpx.get(f"{url}/healthz").status_code == 200
        reply = hostile.declared(f"{url}/v1/classify")
        assert (reply.status, "larger than 16777216 bytes" in reply.answer) == (413, True)
        assert httpx.post(f"{url}/v1/classify", content=b"<html>").status_code == 400
    finally:
        serving.send_signal(signal.SIGTERM)
        said = serving.communicate(timeout=300)[1]
    assert serving.returncode == 143, said
    assert "Traceback" not in said
    assert none_left(mark)
    assert not set(Path("/tmp").glob("rp-*/*/haproxy.cfg")) - before
