"""What it takes to look at a search of many trials: its records, blocks beside single files.

    python benchmarks/records.py [trials=10_000] [s3=0]

The records are of trials that have ended, a thousand a file as a search leaves them; the peer is
the same records as single files. Both are read, shown, written as a study of Optuna, drawn, and
gone on with, each in this process after all is imported. With s3=1 they lie in an S3 server of this
process instead of on a disk. The last line is JSON: seconds of each, and the peer's over ours of
reading alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from raypose import storage
from raypose.cli.main import main as command
from raypose.config import Config, dump, override
from raypose.testing import embedded_s3
from raypose.tuning import report
from raypose.tuning.course import Course
from raypose.tuning.records import BLOCK, Records, Search, Trial, read_trials

SPACE: dict[str, BaseDistribution] = {
    "optim.learning_rate": FloatDistribution(1e-6, 1e-3, log=True),
    "optim.weight_decay": FloatDistribution(0.0, 0.5),
    "optim.batch_size": IntDistribution(16, 512),
    "model.backbone": CategoricalDistribution(("ViT-B-32", "ViT-B-16", "PE-Core-S-16")),
    "captions.preset": CategoricalDistribution(("name", "photo", "words", "tree")),
}
WRITTEN = {name: distribution_to_json(each) for name, each in SPACE.items()}


def main() -> None:
    """Measure, and print the seconds."""
    given = dict(word.split("=") for word in sys.argv[1:])
    count, on_s3 = int(given.get("trials", "10_000")), given.get("s3") == "1"
    trials = [drawn(number) for number in range(count)]
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        root = folder
        if on_s3:
            stack.enter_context(embedded_s3())
            root = "s3://raypose-records"
            storage.make_bucket(root)
        for kind, name in (("blocks", "ours"), ("files", "peer")):
            url = written(root, name, trials, in_blocks=kind == "blocks")
            for work, seconds in looked_at(root, url, f"{folder}/{name}").items():
                found[f"{work}_{kind}_s"] = round(seconds, 3)
                print(f"{kind:<7} {work:<7} {seconds:8.2f} s", flush=True)
    found["read_ratio"] = round(found["read_files_s"] / found["read_blocks_s"], 2)
    print(json.dumps(found))


def drawn(number: int) -> Trial:
    """Return a record of four in five trials that were stopped early."""
    rng = np.random.default_rng(number)
    params: dict[str, Any] = {
        "optim.learning_rate": float(10 ** rng.uniform(-6, -3)),
        "optim.weight_decay": float(rng.uniform(0, 0.5)),
        "optim.batch_size": int(rng.integers(16, 513)),
        "model.backbone": ("ViT-B-32", "ViT-B-16", "PE-Core-S-16")[rng.integers(3)],
        "captions.preset": ("name", "photo", "words", "tree")[rng.integers(4)],
    }
    epochs = int(rng.choice([1, 1, 1, 3, 9]))
    top = 0.8 - 0.1 * abs(np.log10(params["optim.learning_rate"]) + 4.5)
    scores = {e: float(top - 0.4 / (e + 1) + 0.01 * rng.normal()) for e in range(1, epochs + 1)}
    return Trial(
        number=number,
        state="finished" if epochs == 9 else "stopped",
        values=params,
        params=params,
        distributions=WRITTEN,
        run=f"postures-trial-{number:08x}",
        scores=scores,
        seconds=30.0 * epochs,
        began=1.7e9 + 40.0 * number,
    )


def written(root: str, name: str, trials: list[Trial], *, in_blocks: bool) -> str:
    """Write a search; return where it lies."""
    url = storage.join(root, "searches", f"{name}-1a2b3c4d")
    config = override(Config(), {"name": name, "storage": root})
    search = Search(id=f"{name}-1a2b3c4d", name=name, config=dump(config))
    storage.write_bytes(f"{url}/search.json", search.model_dump_json().encode())
    if in_blocks:
        for first in range(0, len(trials), BLOCK):
            block = trials[first : first + BLOCK]
            lines = "".join(f"{t.model_dump_json(exclude_defaults=True)}\n" for t in block)
            place = f"{url}/trials/{first:06d}-{first + BLOCK - 1:06d}.jsonl"
            storage.write_bytes(place, lines.encode())
        return url
    for trial in trials:
        content = trial.model_dump_json(exclude_defaults=True, indent=2).encode()
        storage.write_bytes(f"{url}/trials/{trial.number:06d}.json", content)
    return url


def looked_at(root: str, url: str, out: str) -> dict[str, float]:
    """Return seconds of each way to look at a search."""
    name = url.rpartition("/")[2]
    at = f"storage={root}"
    assert report  # is imported before anything is timed
    return {
        "read": timed(lambda: read_trials(url)),
        "show": timed(lambda: quietly("searches", "show", name, at)),
        "json": timed(lambda: quietly("searches", "show", name, at, "--json")),
        "study": timed(lambda: quietly("searches", "study", name, at, f"out={out}.log")),
        "report": timed(lambda: quietly("searches", "report", name, at, f"out={out}.html")),
        "resume": timed(lambda: resumed(url)),
    }


def resumed(url: str) -> None:
    """Go on with a search as far as its next trial: all are told to the sampler."""
    space = {
        "optim.learning_rate": {"loguniform": [1e-6, 1e-3]},
        "optim.weight_decay": {"uniform": [0.0, 0.5]},
        "optim.batch_size": {"integers": [16, 512]},
        "model.backbone": {"choice": ["ViT-B-32", "ViT-B-16", "PE-Core-S-16"]},
        "captions.preset": {"choice": ["name", "photo", "words", "tree"]},
    }
    search = {"space": space, "num_trials": 10**6}
    course = Course(override(Config(), {"search": search}), Records(url))
    assert course.next() is not None


def quietly(*words: str) -> None:
    """Run a command and keep what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = command([*words, "--quiet"])
    if code:
        raise SystemExit(code)


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds of a piece of work."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
