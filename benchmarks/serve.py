"""Requests a second of the endpoint, beside what else would serve the same release.

    pip install 'raypose[bench]'
    apt-get install wrk                  # PyPI's wrk is another program
    python benchmarks/serve.py [parts=bare,bare_auto,fastapi,litserve,ray_serve,ours,ours_haproxy]
                               [clients=1,16,64] [seconds=4] [rounds=3] [backbone=small]
                               [gate=false]

A JPEG of some 75 kB is posted over the loopback by 1, 16 and 64 clients of wrk, each of which
asks again when it has its answer. `bare` is the predictor in a loop without HTTP, in batches of
as many as there are clients and at most 16; `fastapi` and `ray_serve` are in serve_peers.py,
`litserve` in a file of its own; ours is `raypose serve` by either of Ray Serve's proxies. Each is
a process of its own, one replica with one thread of torch, started anew in each round, called
ready when it answers with the right class, and warmed up. Rounds are interleaved, medians given.
CPU is that of all processes that serve, by /proc, without wrk's. Answers other than 200 are
counted. The last line is JSON: ratios.

gate=true has faster backends looked for when the release is published, with the extra `cpu`, which
is the default for larger towers alone: ours then serves by the fastest, and so does `bare_auto`;
the others hold the predictor as a line of Python gives it.

backbone=ViT-B-32 has weights drawn by chance; how long a picture takes from end to end is then told
beside the 7 ms of the paper.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from serve_subject import Subject, made

HERE = Path(__file__).parent
PATH = "/v1/classify"
READY_S = 180.0
PAPER_MS = 7.0
TICK = os.sysconf("SC_CLK_TCK")
SCRIPT = """
local file = io.open(os.getenv("BENCH_PICTURE"), "rb")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Content-Type"] = "image/jpeg"
file:close()
done = function(summary, latency, requests)
  local bad = summary.errors
  io.write(string.format(
    '{"requests": %d, "us": %d, "p50_ms": %f, "p99_ms": %f, "failed": %d}\\n',
    summary.requests, summary.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    bad.status + bad.connect + bad.read + bad.write + bad.timeout))
end
"""
HAPROXY = {}, ["serve.proxy=haproxy"]
"""Environment and words of `raypose serve` by Ray Serve's other proxy."""
OURS: dict[str, tuple[dict[str, str], list[str]]] = {"ours": ({}, []), "ours_haproxy": HAPROXY}
BARE = ("bare", "bare_auto")
PARTS = (*BARE, "fastapi", "litserve", "ray_serve", *OURS)
ROW = "{:<13}{:>8}{:>13}{:>20}{:>9}{:>9}{:>9}{:>7}"


@dataclass
class Running:
    """One that serves; `line` asks the one that does it without HTTP."""

    url: str
    process: subprocess.Popen[str]
    mark: str
    cpu: dict[int, float] = field(default_factory=dict)

    def line(self, words: str = "") -> dict[str, Any]:
        """Send a line, and read one of JSON."""
        assert self.process.stdin
        assert self.process.stdout
        if words:
            self.process.stdin.write(words + "\n")
            self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


def main(options: dict[str, Any]) -> None:
    """Measure each part and print the figures."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed: apt-get install wrk (PyPI's is another program)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left behind
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        subject = made(Path(name), options["backbone"], gate=options["gate"] or None)
        for turn in range(options["rounds"]):
            print(f"round {turn + 1} of {options['rounds']}", file=sys.stderr)
            for part in options["parts"]:
                for num, figures in measure(part, subject, options):
                    found.setdefault((part, num), []).append(figures)
    middle = {key: middle_of(rounds) for key, rounds in found.items()}
    show(found, middle, options["backbone"])
    print(json.dumps(ratios(middle, options["backbone"])))


def measure(
    part: str, subject: Subject, options: dict[str, Any]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Start one, check what it answers, and yield number of clients → figures."""
    print(f"  {part}", file=sys.stderr)
    with running(part, subject) as server:
        if part in BARE:
            assert server.line()["label"] == subject.label
            server.line("16 1")
            for num in options["clients"]:
                yield num, server.line(f"{num} {options['seconds']}")
            return
        await_right(server, subject)
        wrk(server, subject, 16, 2)
        for num in options["clients"]:
            yield num, wrk(server, subject, num, options["seconds"])
            check(server, subject)


@contextmanager
def running(part: str, subject: Subject, *more: str) -> Iterator[Running]:
    """Run one until the block ends; then nothing of it is left.

    Args:
        part: of `PARTS`.
        subject: what it serves.
        more: words of `raypose serve`.
    """
    port, mark = free_port(), f"bench-{uuid.uuid4().hex}"
    environment = {**os.environ, "RAYPOSE_BENCH_MARK": mark}
    if part in OURS:
        extra, words = OURS[part]
        environment |= extra
        raypose = str(Path(sys.executable).with_name("raypose"))
        place = [f"storage={subject.storage}", f"serve.port={port}", "serve.max_replicas=1"]
        command = [raypose, "--quiet", "serve", subject.release, *place, *words, *more]
    else:
        file = "serve_litserve.py" if part == "litserve" else "serve_peers.py"
        last = str(subject.picture) if part in BARE else str(port)
        command = [sys.executable, str(HERE / file), part, str(subject.folder), last]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE if part in BARE else sys.stderr}
    process = subprocess.Popen(
        command, env=environment, text=True, start_new_session=True, **pipes
    )  # of its own session, so that Ctrl-C ends it by what stands below, and in order
    try:
        yield Running(f"http://127.0.0.1:{port}", process, mark)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for pid in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port of the loopback that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def marked(mark: str) -> list[int]:
    """Process ids that inherited a mark, whoever is now above them."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def cpu_s(mark: str) -> dict[int, float]:
    """Process id → seconds of user and system of each that bears a mark."""
    found = {}
    for pid in marked(mark):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            found[pid] = (int(words[11]) + int(words[12])) / TICK
    return found


def await_right(server: Running, subject: Subject) -> None:
    """Wait for a 200 with the class that the picture has, and then for five in a row."""
    deadline, right = time.monotonic() + READY_S, 0
    while right < 5:
        if time.monotonic() > deadline or server.process.poll() is not None:
            raise SystemExit(f"{server.url}: not ready; see what it says above")
        try:
            check(server, subject, num=1)
            right += 1
        except (httpx.HTTPError, ValueError):
            right = 0
            time.sleep(0.2)


def check(server: Running, subject: Subject, num: int = 5) -> None:
    """Ask some times, and refuse an answer that is not right."""
    headers = {"Content-Type": "image/jpeg"}
    for _ in range(num):
        answer = httpx.post(
            server.url + PATH, content=subject.picture.read_bytes(), headers=headers, timeout=60
        )
        answer.raise_for_status()
        if answer.json()["label"] != subject.label:
            raise ValueError(f"{server.url}: answered {answer.text}, not {subject.label}")


def wrk(server: Running, subject: Subject, num: int, seconds: float) -> dict[str, float]:
    """Have clients ask for some seconds, or longer until an answer comes; return figures."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        before = cpu_s(server.mark)
        done = subprocess.run(
            [
                "wrk", "--threads", "1", "--connections", str(num), "--timeout", "30s",
                "--duration", f"{max(1, round(seconds))}s", "--script", script.name,
                server.url + PATH,
            ],
            env={**os.environ, "BENCH_PICTURE": str(subject.picture)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        after = cpu_s(server.mark)
    told = json.loads(done.stdout.splitlines()[-1])
    if not told["requests"]:  # a large model on a busy machine
        if seconds > 60:
            raise SystemExit(f"{server.url}: no answer within {seconds:g} s")
        return wrk(server, subject, num, 4 * seconds)
    used = sum(value - before.get(pid, 0.0) for pid, value in after.items())
    return {
        "requests_s": 1e6 * told["requests"] / told["us"],
        "p50_ms": told["p50_ms"],
        "p99_ms": told["p99_ms"],
        "cpu_ms": 1e3 * used / max(1, told["requests"]),
        "failed": told["failed"],
    }


def middle_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure; of failures the sum."""
    found = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    return {**found, "failed": sum(each["failed"] for each in rounds)}


def show(
    found: dict[tuple[str, int], list[dict[str, float]]],
    middle: dict[tuple[str, int], dict[str, float]],
    backbone: str,
) -> None:
    """Print a table."""
    print(ROW.format("", "clients", "requests/s", "from to", "p50 ms", "p99 ms", "CPU ms", "bad"))
    for (part, num), figures in middle.items():
        speeds = [each["requests_s"] for each in found[part, num]]
        span = f"{min(speeds):.1f} to {max(speeds):.1f}"
        cells = (f"{figures[key]:.1f}" for key in ("p50_ms", "p99_ms", "cpu_ms"))
        speed, bad = f"{figures['requests_s']:.1f}", f"{figures['failed']:.0f}"
        print(ROW.format(part, num, speed, span, *cells, bad))
        if backbone == "ViT-B-32" and num == 1:
            ms = f"{figures['p50_ms']:.1f} ms an image end to end"
            print(f"             {ms} beside the {PAPER_MS:g} of the paper")


def ratios(middle: dict[tuple[str, int], dict[str, float]], backbone: str) -> dict[str, float]:
    """Return requests a second and CPU of each against ours, and of ours against the loop."""
    found = {}
    for (part, num), figures in middle.items():
        for ours in OURS:
            if part in OURS or (ours, num) not in middle:
                continue
            for key in ("requests_s", "cpu_ms"):
                ratio = middle[ours, num][key] / max(figures[key], 1e-9)
                found[f"{ours}_to_{part}_{num}_{key}"] = round(ratio, 3)
        if backbone == "ViT-B-32" and num == 1:
            found[f"{part}_ms_an_image"] = round(figures["p50_ms"], 1)
    return found


def read(words: list[str]) -> dict[str, Any]:
    """Return the options, of what stands as key=value."""
    options: dict[str, Any] = {
        "parts": PARTS, "clients": (1, 16, 64), "seconds": 4.0, "rounds": 3, "backbone": "small",
        "gate": False,
    }  # fmt: skip
    kinds: dict[str, Callable[[str], Any]] = {
        "parts": lambda text: tuple(text.split(",")),
        "clients": lambda text: tuple(map(int, text.split(","))),
        "seconds": float,
        "rounds": int,
        "backbone": str,
        "gate": lambda text: text == "true",
    }
    for key, _, value in (word.partition("=") for word in words):
        if key not in kinds:
            raise SystemExit(f"{key}: unknown; known: {', '.join(kinds)}")
        options[key] = kinds[key](value)
    if unknown := set(options["parts"]) - set(PARTS):
        raise SystemExit(f"parts: {', '.join(unknown)}: unknown; known: {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    main(read(sys.argv[1:]))
