"""What clients of the endpoint see when a part of it dies, when too many come, and after a rest.

    pip install 'raypose[bench]'
    python benchmarks/outages.py [proxy=ray,haproxy] [rate=40] [clients=16] [watch_s=60]
                                 [parts=deaths,overrun,rest]

`raypose serve` in a process of its own; JPEGs of some 75 kB over the loopback. For each part that
can die: requests at a steady rate, SIGKILL after 5 s, and then for `watch_s` how many failed, how
long no answer came at the worst, and for how long after the kill requests failed. Too many: closed
loops of ten times as many clients as the queue holds. After a rest: `serve.min_replicas=0`, the
first request once no replica is left. The last line is JSON.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from serve_subject import Subject, made, photograph
from soak import BY, Seen, ask, loaded, read

import serve as bench

PARTS = {
    "replica": "ray::ServeReplica:",
    "controller": "ray::ServeController",
    "proxy": "ray::ProxyActor",
    "haproxy_manager": "ray::HAProxyManager",
    "haproxy": "haproxy ",
}
"""Part → how its command line begins, or the name of its program."""
OPTIONS: dict[str, Any] = {
    "proxy": "ray,haproxy", "rate": 40.0, "clients": 16, "watch_s": 60.0,
    "parts": "deaths,overrun,rest",
}  # fmt: skip
BEFORE_S = 5.0
QUEUE = "serve.max_queued_requests=16"
REST = "serve.min_replicas=0"
DOWN_S = 900.0
"""In which replicas that nobody needs are gone."""


def main(options: dict[str, Any]) -> None:
    """Measure each mishap by each proxy."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    figures: dict[str, float] = {}
    asked = options["parts"].split(",")
    with tempfile.TemporaryDirectory() as name:
        subject = made(Path(name), "small")
        for proxy, part in itertools.product(options["proxy"].split(","), asked):
            for key, value in MEASURED[part](proxy, subject, options).items():
                figures[f"{proxy}_{key}"] = value
    print(json.dumps(figures))


def deaths(proxy: str, subject: Subject, options: dict[str, Any]) -> dict[str, float]:
    """Return what each death costs."""
    figures = {}
    with bench.running(BY[proxy], subject) as server:
        for part in PARTS:
            for key, value in died(server, part, options).items():
                figures[f"{part}_{key}"] = value
    return figures


def too_many(proxy: str, subject: Subject, options: dict[str, Any]) -> dict[str, float]:
    """Return what becomes of more than it can take."""
    with bench.running(BY[proxy], subject, QUEUE) as server:
        return {f"overrun_{key}": value for key, value in overrun(server, options).items()}


def rest(proxy: str, subject: Subject, options: dict[str, Any]) -> dict[str, float]:
    """Return how long the first request after a rest takes."""
    with bench.running(BY[proxy], subject, REST) as server:
        return {"cold_start_s": rested(server)}


MEASURED = {"deaths": deaths, "overrun": too_many, "rest": rest}


def pids(server: bench.Running, part: str) -> list[int]:
    """Process ids of a part."""
    found = []
    for pid in bench.marked(server.mark):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            program = f"{words.split(' ')[0].rsplit('/', 1)[-1]} "
            if words.startswith(PARTS[part]) or program == PARTS[part]:
                found.append(pid)
    return found


def died(server: bench.Running, part: str, options: dict[str, Any]) -> dict[str, float]:
    """Kill a part under load; return what clients saw."""
    settle(server)
    victims = pids(server, part)
    if not victims:
        return {}
    seen, seconds = Seen(), BEFORE_S + options["watch_s"]
    asking = threading.Thread(
        target=loaded, args=(server.url, options["clients"], options["rate"], seconds, seen)
    )
    asking.start()
    time.sleep(BEFORE_S)
    killed = time.monotonic()
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    asking.join()
    ends = sorted(due + took for due, took, status, _ in seen.asked if status == 200)
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    failed = [each for each in seen.asked if each[2] != 200]
    last = max((due + took - killed for due, took, _, _ in failed), default=0.0)
    found = {
        "failed": len(failed),
        "of": len(seen.asked),
        "failing_for_s": round(max(0.0, last), 2),
        "longest_silence_s": round(max(gaps, default=0.0), 2),
    }
    print(
        f"{part}: {found}", *{f"{status} {text[:60]}" for _, _, status, text in failed}, flush=True
    )
    return found


def settle(server: bench.Running) -> None:
    """Wait until 20 answers in a row are right."""
    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    content, right, deadline = photograph(), 0, time.monotonic() + bench.READY_S
    while right < 20:
        assert time.monotonic() < deadline, "it does not come back"
        right = right + 1 if ask(link, content)[0] == 200 else 0
        time.sleep(0.05)


def overrun(server: bench.Running, options: dict[str, Any]) -> dict[str, float]:
    """Have ten times as many ask at once as the queue holds; return what became of them."""
    settle(server)
    quiet = sorted(took for _, took, _, _ in loaded(server.url, 1, 0.0, 5.0).asked)
    seen = loaded(server.url, 160, 0.0, 10.0)
    over = time.monotonic()
    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    content, near, within = photograph(), 2 * quiet[len(quiet) // 2], 0
    while within < 10 and time.monotonic() < over + 60:
        began = time.monotonic()
        status, _ = ask(link, content)
        within = within + 1 if status == 200 and time.monotonic() - began < near else 0
    taken = sorted(took for _, took, status, _ in seen.asked if status == 200)
    refused = sorted(took for _, took, status, _ in seen.asked if status == 503)
    found = {
        "answered": len(taken),
        "refused": len(refused),
        "other": len(seen.asked) - len(taken) - len(refused),
        "answered_p99_ms": round(1000 * taken[int(0.99 * len(taken))], 1),
        "refused_p50_ms": round(1000 * refused[len(refused) // 2], 1) if refused else 0.0,
        "normal_after_s": round(time.monotonic() - over, 2),
    }
    print(f"overrun: {found}", flush=True)
    return found


def rested(server: bench.Running) -> float:
    """Return the seconds of the first answer once no replica is left."""
    settle(server)
    deadline = time.monotonic() + DOWN_S
    while pids(server, "replica"):
        assert time.monotonic() < deadline, "replicas stay"
        time.sleep(1.0)
    link = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)
    began = time.monotonic()
    answer = ask(link, photograph())
    took = round(time.monotonic() - began, 2)
    print(f"after a rest: {answer} in {took} s", flush=True)
    return took


if __name__ == "__main__":
    main(read(sys.argv[1:], OPTIONS))
