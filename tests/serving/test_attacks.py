"""What those send who mean harm: answered at once, at little cost, and nobody else is harmed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import hostile, loads
from support.pictures import encoded, photo
from support.processes import descendants

from raypose import config, serving
from raypose.config import Config

PICTURE = encoded(photo())
SETTINGS = {
    "serve.port": 0,
    "serve.cpus_per_replica": 0.5,
    "serve.body_timeout_s": 1.0,
    "serve.limit": "100000/hour",
}
PACE_S = 0.002
"""Between pieces of 64 KiB. Serve's proxy holds what comes until the refusal does: at this pace all
of it would be as much as an attack may cost, in 10 s, on however busy a machine."""
MOST_BYTES = 300 << 20
"""That an attack may cost beyond what is there when nothing goes on."""


@pytest.fixture(scope="module")
def attacked(trained: Config) -> Iterator[str]:
    with serving.running(config.override(trained, SETTINGS), "tiny") as endpoint:
        url = f"{endpoint.url}/v1/classify"
        assert loads.sent(url, [PICTURE], 20).counts() == {200: 20}
        yield url


def resident() -> int:
    """Bytes of the processes that an endpoint consists of."""
    pids = [*descendants("ray::ServeReplica:raypose"), *descendants("ray::ProxyActor")]
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids)


class Watched:
    """The most memory that was seen while something went on."""

    def __init__(self) -> None:
        self.before = self.most = resident()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self.over.wait(0.05):
            self.most = max(self.most, resident())

    def __enter__(self) -> Watched:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    @property
    def grown(self) -> int:
        return self.most - self.before


LATE = "did not come whole within 1 s"
LARGE = "larger than 16777216 bytes"
ATTACKS: dict[str, tuple[Callable[[str], hostile.Reply], dict[int, str]]] = {
    "declared": (lambda url: hostile.declared(url, pause_s=PACE_S), {413: LARGE}),
    # which bound it meets first is a matter of how much a busy machine takes in a second
    "chunked": (lambda url: hostile.chunked(url, pause_s=PACE_S), {413: LARGE, 408: LATE}),
    "slow": (lambda url: hostile.slow_body(url, pause_s=0.2, for_s=20), {408: LATE}),
    "megapixels": (
        lambda url: hostile.post(url, hostile.PICTURES["144 megapixels"]()),
        {400: "header claims 144 megapixels"},
    ),
    "scans": (lambda url: hostile.post(url, hostile.PICTURES["10,000 scans"]()), {400: "scans"}),
    "strip": (lambda url: hostile.post(url, hostile.PICTURES["strip"]()), {400: "a strip of"}),
    "gzip": (hostile.squeezed, {415: "without Content-Encoding"}),
    "parts": (hostile.in_parts, {415: "not a form"}),
}
"""How it goes, and by which status and words it may be refused."""


def refused(reply: hostile.Reply, refusals: dict[int, str]) -> bool:
    """Whether it was refused by a status and the words that go with it."""
    return reply.status in refusals and refusals[reply.status] in reply.answer


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_answered_and_harms_nobody(
    attacked: str, name: str, record_property: Callable[[str, object], None]
) -> None:
    attack, refusals = ATTACKS[name]
    with Watched() as watched, loads.going(attacked, [PICTURE], num_clients=2) as load:
        load.wait(5)
        reply = attack(attacked)
        load.wait(5)
    record_property(
        "seconds", round(reply.seconds, 2)
    )  # told by --junitxml=FILE -o junit_family=xunit1
    record_property("grown_mib", watched.grown >> 20)
    assert refused(reply, refusals), reply
    assert watched.grown < MOST_BYTES, f"{watched.grown >> 20} MiB"
    assert load.failed() == []


def test_clients_that_leave_take_their_work_with_them(attacked: str) -> None:
    for share in (1.0, 0.5):
        for _ in range(20):
            hostile.leave(attacked, PICTURE, share=share)
    began = time.monotonic()
    after = loads.sent(attacked, [PICTURE], 20, num_clients=2)
    assert after.counts() == {200: 20}
    assert time.monotonic() > began


def test_all_at_once(attacked: str) -> None:
    replies: dict[str, hostile.Reply] = {}

    def run(name: str) -> None:
        replies[name] = ATTACKS[name][0](attacked)

    with Watched() as watched, loads.going(attacked, [PICTURE], num_clients=2) as load:
        threads = [threading.Thread(target=run, args=(name,)) for name in ATTACKS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        load.wait(5)
    assert replies.keys() == ATTACKS.keys()
    for name, (_, refusals) in ATTACKS.items():
        assert refused(replies[name], refusals), (name, replies[name])
    assert watched.grown < 2 * MOST_BYTES
    assert load.failed() == []
