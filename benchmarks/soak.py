"""The endpoint under a steady load for a while, with another release promoted every minute.

    pip install 'raypose[bench]'
    python benchmarks/soak.py [minutes=20] [load=0.7] [promote_s=60] [clients=16] [proxy=haproxy]

`raypose serve` in a process of its own, one replica; JPEGs of some 75 kB over the loopback. First
clients ask without a pause for 20 s: that is what it can take. Then requests come at `load` of that
rate by a clock, whether earlier ones are answered or not, as long as a client is free. Two releases
of the same name take turns in production. Memory is PSS of all processes that serve, by /proc; of
growth the mean of the last fifth against that of the second (the first warms up). The last line is
JSON.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serve_subject import Subject, made, photograph

import serve as bench
from raypose.releases import registry

BY = {"ray": "ours", "haproxy": "ours_haproxy"}
"""Proxy → the part of serve.py."""
CAPACITY_S = 20.0
SAMPLE_S = 5.0
OPTIONS: dict[str, Any] = {
    "minutes": 20.0, "load": 0.7, "promote_s": 60.0, "clients": 16, "proxy": "haproxy",
}  # fmt: skip
ROW = "{:>6}{:>10}{:>8}{:>9}{:>9}{:>9}{:>10}{:>9}{:>9}"


@dataclass
class Seen:
    """What came of a load: of each request when it was due, what it took, status and release."""

    asked: list[tuple[float, float, int, str]] = field(default_factory=list)
    late: int = 0
    """Requests that found no client free when they were due."""


def main(options: dict[str, Any]) -> None:
    """Serve, load, promote, and print a line a minute."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory() as name:
        subject = made(Path(name), "small")
        versions = two(subject, Path(name) / "other")
        followed = replace(subject, release="bench")  # by its alias
        with bench.running(BY[options["proxy"]], followed) as server:
            bench.await_right(server, followed)
            rate = len(loaded(server.url, options["clients"], 0.0, CAPACITY_S).asked) / CAPACITY_S
            print(f"without a pause {rate:.0f} requests/s; now {options['load']:g} of that")
            show(*soaked(server, followed, versions, options["load"] * rate, options))


def two(subject: Subject, folder: Path) -> list[str]:
    """Return two releases of one name that differ by a few bytes that nothing reads."""
    shutil.copytree(subject.folder, folder)
    (folder / "note.txt").write_text("the same, under another version")
    other = registry.publish(subject.storage, "bench", folder)
    return [str(registry.resolve(subject.storage, "bench")), str(other)]


def loaded(url: str, num: int, rate: float, seconds: float, seen: Seen | None = None) -> Seen:
    """Ask for some seconds, at a rate or, where that is 0, as fast as answers come."""
    seen = seen or Seen()
    begin, numbers = time.monotonic(), itertools.count()
    pictures = [photograph(seed) for seed in range(4)]

    def work() -> None:
        link = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        for mine in numbers:
            due = begin + mine / rate if rate else time.monotonic()
            if due > begin + seconds:
                return
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            elif rate and wait < -0.1:
                seen.late += 1
            status, release = ask(link, pictures[mine % len(pictures)])
            seen.asked.append((due, time.monotonic() - due, status, release))

    threads = [threading.Thread(target=work) for _ in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def ask(link: http.client.HTTPConnection, content: bytes) -> tuple[int, str]:
    """Post a picture; return the status, 0 for none, and what the answer names."""
    try:
        link.request("POST", bench.PATH, content, {"Content-Type": "image/jpeg"})
        answer = link.getresponse()
        text = answer.read().decode()
        if answer.status != 200:  # of Serve itself they are plain text
            return answer.status, text
        return answer.status, str(json.loads(text)["release"])
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        link.close()
        return 0, f"{type(error).__name__}: {error}"


def soaked(
    server: bench.Running,
    subject: Subject,
    versions: list[str],
    rate: float,
    options: dict[str, Any],
) -> tuple[Seen, list[tuple[float, str]], list[tuple[float, float, int]]]:
    """Load, and promote meanwhile; return requests, promotions, and samples of memory."""
    seen, seconds = Seen(), 60 * options["minutes"]
    asking = threading.Thread(
        target=loaded, args=(server.url, options["clients"], rate, seconds, seen)
    )
    begin = time.monotonic()
    asking.start()
    promoted: list[tuple[float, str]] = [(begin, versions[0])]
    samples: list[tuple[float, float, int]] = []
    told = 0
    while asking.is_alive():
        time.sleep(SAMPLE_S)
        now = time.monotonic()
        samples.append((now, *held(server)))
        if now - promoted[-1][0] >= options["promote_s"] and now < begin + seconds - 10:
            other = versions[len(promoted) % 2]
            registry.promote(subject.storage, other)
            promoted.append((time.monotonic(), other))
        if (now - begin) // 60 > told:
            tell(seen, samples, begin, told)
            told += 1
    return seen, promoted, samples


def held(server: bench.Running) -> tuple[float, int]:
    """MiB and open files of all processes that serve."""
    mib, files = 0.0, 0
    for pid in bench.marked(server.mark):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            mib += int(text.split("\nPss:")[1].split()[0]) / 1024
            files += len(os.listdir(f"/proc/{pid}/fd"))
    return mib, files


def tell(seen: Seen, samples: list[tuple[float, float, int]], begin: float, minute: int) -> None:
    """Print a line of one minute."""
    if not minute:
        head = (
            "minute",
            "requests",
            "failed",
            "p50 ms",
            "p99 ms",
            "max ms",
            "late",
            "MiB",
            "files",
        )
        print(ROW.format(*head))
    first, last = begin + 60 * minute, begin + 60 * (minute + 1)
    mine = [each for each in list(seen.asked) if first <= each[0] < last]
    took = sorted(1000 * each[1] for each in mine) or [0.0]
    bad = sum(each[2] != 200 for each in mine)
    _, mib, files = samples[-1]
    cells = (took[len(took) // 2], took[int(0.99 * len(took))], took[-1])
    times = [f"{cell:.0f}" for cell in cells]
    line = ROW.format(minute + 1, len(mine), bad, *times, seen.late, f"{mib:.0f}", files)
    print(line, flush=True)


def show(
    seen: Seen, promoted: list[tuple[float, str]], samples: list[tuple[float, float, int]]
) -> None:
    """Print what all of it came to."""
    bad = [each for each in seen.asked if each[2] != 200]
    for due, _, status, text in bad[:5]:
        print(f"failed after {due - promoted[0][0]:.0f} s: {status} {text}")
    took = sorted(each[1] for each in seen.asked)
    taken, mixed = [], 0
    for number, (at, version) in enumerate(promoted[1:], 1):
        until = promoted[number + 1][0] if number + 1 < len(promoted) else float("inf")
        answers = [(due + s, due, text) for due, s, status, text in seen.asked
                   if status == 200 and at <= due < until]  # fmt: skip
        first = min((end for end, _, text in answers if text == version), default=float("inf"))
        taken.append(first - at)
        # asked after the new one had answered, and answered by the one before
        mixed += sum(due > first and text != version for _, due, text in answers)
    fifth = max(1, len(samples) // 5)
    early = statistics.mean(mib for _, mib, _ in samples[fifth : 2 * fifth] or samples)
    late = statistics.mean(mib for _, mib, _ in samples[-fifth:])
    figures = {
        "requests": len(seen.asked),
        "failed": len(bad),
        "late": seen.late,
        "p50_ms": round(1000 * took[len(took) // 2], 1),
        "p99_ms": round(1000 * took[int(0.99 * len(took))], 1),
        "promotions": len(promoted) - 1,
        "taken_after_s_max": round(max(taken, default=0.0), 2),
        "answers_by_the_one_before": mixed,
        "mib_before": round(early, 1),
        "mib_after": round(late, 1),
        "growth_ratio": round(late / early, 4),
    }
    print(json.dumps(figures))


def read(words: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """Return the options, of what stands as key=value; each is of the kind of its default."""
    options = dict(known)
    for key, _, value in (word.partition("=") for word in words):
        if key not in known:
            raise SystemExit(f"{key}: unknown; known: {', '.join(known)}")
        options[key] = type(known[key])(value)
    return options


if __name__ == "__main__":
    main(read(sys.argv[1:], OPTIONS))
