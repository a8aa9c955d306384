"""What a search costs beside its training, and what it saves: on drawn postures and a tiny model.

    python benchmarks/search.py [parts=overhead,epochs,busy,memory] [rung_s=30]

overhead  seconds from the end of a trial to the end of the next, less its training, beside plain
          Tune function trials that each start an actor of their own
epochs    epochs until ASHA, warm from an earlier search of other points, has what random search at
          full budget comes to: curves are trained once, searches of 5 seeds go along them
busy      share of the time in which workers train, where a rung takes `rung_s`
memory    of driver and workers over 200 trials

The last line is JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import tune

from raypose import config, runtime, storage, synthesis, training, tuning
from raypose.captions import taxonomy
from raypose.config import ClusterConfig, Config, dump, parse_config
from raypose.data import packing
from raypose.training import tracking
from raypose.tuning import records
from raypose.tuning.course import Course
from raypose.tuning.records import METRIC, Records

PARTS = ("overhead", "epochs", "busy", "memory")
NUM_CLASSES = 8
GRID = {
    "optim.learning_rate": [3e-5, 1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 2e-2],
    "optim.text_scale": [0.0, 0.1, 1.0],
    "augment.min_area": [0.3, 0.9],
}
EPOCHS = 9
SEEDS = 5


def main(parts: tuple[str, ...] = PARTS, rung_s: float = 30.0) -> None:
    """Measure each part and print the figures."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, runtime.connect(ClusterConfig(num_cpus=6)):
        os.chdir(name)
        recipe = drawn(Path(name))
        if "overhead" in parts:
            found |= overhead(recipe)
        if "epochs" in parts:
            found |= epochs(recipe)
        if "busy" in parts:
            found |= busy(recipe, rung_s)
        if "memory" in parts:
            found |= memory(recipe)
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


def drawn(folder: Path, per_class: int = 24) -> Config:
    """Draw pictures of some postures, and return the recipe that learns them."""
    ids = taxonomy.load("yoga82").ids[:NUM_CLASSES]
    for number, (split, count) in enumerate({"train": per_class, "val": 40}.items()):
        counts = dict.fromkeys(ids, count)
        synthesis.synthesize(folder / split, counts, size=48, seed=10**6 * number)
        packing.build(str(folder / split), str(folder / "data" / split))
    tiny = {
        "embed_dim": 32,
        "vision_cfg": {
            "layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 48,
        },
        "text_cfg": {
            "context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1,
        },
    }  # fmt: skip
    return parse_config(
        {
            "name": "bench",
            "storage": str(folder / "store"),
            "data": {split: str(folder / "data" / split) for split in ("train", "val")},
            "model": {"backbone": "tiny", "architectures": {"tiny": tiny}},
            "captions": {"preset": "name"},
            "optim": {"epochs": 1, "batch_size": 32, "learning_rate": 1e-3},
        }
    )


def searching(recipe: Config, name: str, **settings: Any) -> Config:
    """Return a search over rates, drawn by chance."""
    space = {"optim.learning_rate": {"loguniform": [1e-4, 1e-2]}}
    search = {"space": space, "sampler": "random", "finalists": 0, **settings}
    return config.override(recipe, {"name": name, "search": search})


def overhead(recipe: Config, trials: int = 16) -> dict[str, float]:
    """Seconds of a trial beside its training, ours and Tune's own with cold actors."""
    asked = searching(recipe, "overhead", num_trials=trials, max_concurrent=1)
    result = tuning.search(asked)
    found = list(records.read_trials(result.url).values())
    ends = [trial.began + trial.seconds for trial in found]
    steps = [b - a for a, b in itertools.pairwise(ends)]
    alone = warm_s(recipe)
    ours = statistics.median(steps) - alone
    theirs = cold_s(recipe, 4) - alone
    print(f"overhead    training alone {alone:.2f} s; ours {ours:+.2f} s a trial, cold Tune actors")
    print(f"            {theirs:+.2f} s: {theirs / max(ours, 1e-3):.1f} times as much")
    return {"overhead_s": ours, "cold_s": theirs, "overhead_ratio": theirs / max(ours, 1e-3)}


def warm_s(recipe: Config) -> float:
    """Return the median seconds of a training in a warm process."""

    @ray.remote(num_cpus=1)
    class Worker:
        def train(self, seed: int) -> float:
            began = time.monotonic()
            made = config.override(recipe, {"name": "alone", "seed": seed})
            training.train(made, in_process=True)
            return time.monotonic() - began

    worker = Worker.remote()
    spent = [ray.get(worker.train.remote(seed)) for seed in range(6)]
    return statistics.median(spent[1:])


def cold_s(recipe: Config, trials: int) -> float:
    """Return the seconds of a plain Tune function trial, each in an actor of its own."""

    def work(given: dict[str, Any]) -> None:
        changes = {"name": "cold", "optim.learning_rate": given["rate"]}
        made = config.override(parse_config(given["document"]), changes)
        training.train(made, in_process=True, report=tune.report)

    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(work, {"cpu": 1}),
            param_space={"rate": tune.loguniform(1e-4, 1e-2), "document": dump(recipe)},
            tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=folder, name="cold", verbose=0),
        )
        began = time.monotonic()
        tuner.fit()
        return (time.monotonic() - began) / trials


def epochs(recipe: Config) -> dict[str, float]:
    """Epochs to what random search at full budget reaches, of ASHA warm from another space."""
    curves = trained(recipe)
    ratios, pairs = [], []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append(race(recipe, curves, Path(folder), seed))
        ratios.append(pairs[-1][0] / pairs[-1][1])
    print(f"epochs      random {[pair[0] for pair in pairs]}, warm ASHA {[p[1] for p in pairs]}:")
    print(f"            median {statistics.median(ratios):.1f} times fewer")
    return {"epochs_ratio": statistics.median(ratios)}


def trained(recipe: Config) -> dict[str, list[float]]:
    """Return point → its scores by epoch, of every point of the grid, each trained once."""
    keys = list(GRID)
    space = {key: {"choice": values} for key, values in GRID.items()}
    size = len(list(itertools.product(*GRID.values())))
    asked = config.override(
        recipe,
        {
            "name": "grid",
            "optim.epochs": EPOCHS,
            "search": {
                "space": space, "num_trials": size, "sampler": "random", "finalists": 0,
                "reduction_factor": 0,
            },
        },
    )  # fmt: skip
    result = tuning.search(asked)
    return {
        json.dumps([trial.values[key] for key in keys]): list(trial.scores.values())
        for trial in records.read_trials(result.url).values()
    }


def race(
    recipe: Config, curves: dict[str, list[float]], folder: Path, seed: int, trials: int = 24
) -> tuple[int, int]:
    """Return the epochs of random search, and of warm ASHA until it is as good."""
    whole = {key: {"choice": values} for key, values in GRID.items()}
    half = {**whole, "optim.learning_rate": {"choice": GRID["optim.learning_rate"][::2]}}
    plan = {"optim.epochs": EPOCHS, "seed": seed}

    def course(place: str, space: dict[str, Any], **settings: Any) -> Course:
        search = {"space": space, "finalists": 0, **settings}
        made = config.override(recipe, {**plan, "search": search})
        return Course(made, Records(str(folder / place)))

    by_chance = course("random", whole, num_trials=trials, sampler="random", reduction_factor=0)
    spent = follow(by_chance, curves)
    wanted = max(trial.score or 0.0 for trial in by_chance.records.trials.values())
    halving = {"grace_epochs": 1, "reduction_factor": 3}
    before = course("before", half, num_trials=trials, **halving)
    follow(before, curves)
    warm = course("warm", whole, num_trials=48, **halving)
    for trial in before.records.trials.values():
        params = warm.points.learn(trial)
        if params and trial is records.best(before.records.trials.values())[0]:
            warm.points.start_with(params, "before")
    return spent, follow(warm, curves, until=wanted)


def follow(course: Course, curves: dict[str, list[float]], until: float = 2.0) -> int:
    """Carry a course out along known curves; return its epochs up to a score, or all."""
    spent = 0
    while (trial := course.next()) is not None:
        key = json.dumps([trial.values[name] for name in GRID])
        for epoch, score in enumerate(curves[key], 1):
            spent += 1
            if score >= until:
                return spent
            if not course.report(trial.number, {"epoch": epoch, METRIC: score}):
                break
        else:
            course.end(trial.number, "finished")
    return spent


def busy(recipe: Config, rung_s: float) -> dict[str, float]:
    """Share of the time in which workers train, two at a time."""
    (line,) = tracking.read(storage.join(training.train(recipe, in_process=True).url, METRICS))
    one = line["train_s"] / max(1, len(range(0, NUM_CLASSES * 24, 32)))
    steps = max(1, round(rung_s / max(one, 1e-3) / 2))  # two share the cores
    with tempfile.TemporaryDirectory() as name:
        larger = drawn(Path(name), per_class=max(24, min(2000, steps * 32 // NUM_CLASSES)))
        asked = searching(larger, "busy", num_trials=20, max_concurrent=2, grace_epochs=1)
        asked = config.override(asked, {"optim.epochs": 2, "search.reduction_factor": 2})
        result = tuning.search(asked)
        trials = records.read_trials(result.url).values()
        spans = [(trial.began, trial.began + trial.seconds) for trial in trials]
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        lone = last - sorted(end for _, end in spans)[-2]
        wall = last - first
        lines = [
            line
            for trial in trials
            for line in tracking.read(storage.join(result.url, "runs", trial.run, METRICS))
        ]
    work = sum(line["train_s"] + line.get("val_s", 0.0) for line in lines)
    rung = statistics.median(line["train_s"] for line in lines)
    share = work / (2 * wall)
    without = work / (2 * wall - lone)
    print(f"busy        {share:.1%} of {wall:.0f} s of two workers, rungs of {rung:.0f} s")
    print(f"            {lone:.0f} s of it one works alone at the end: no trial is left to begin")
    print(f"            {without:.1%} of the time in which there is work for both")
    return {"busy": share, "busy_while_there_is_work": without, "rung_s": rung}


METRICS = "metrics.jsonl"


def memory(recipe: Config, trials: int = 200) -> dict[str, float]:
    """Memory of driver and workers after 20 trials and after all."""
    asked = searching(recipe, "memory", num_trials=trials, max_concurrent=2)
    url = storage.join(asked.storage, "searches", asked.search_id)
    with sampled(url) as seen:
        tuning.search(asked)
    early = statistics.median([mb for number, mb in seen if 20 <= number < 40])
    late = statistics.median([mb for number, mb in seen if number >= trials - 20])
    for low in range(0, trials, 20):
        there = [mb for number, mb in seen if low <= number < low + 20]
        if there:
            print(
                f"memory      trials {low:>3} to {low + 19:<3} {statistics.median(there):7.0f} MB"
            )
    return {"memory_early_mb": early, "memory_late_mb": late, "memory_ratio": late / early}


@contextmanager
def sampled(url: str) -> Iterator[list[tuple[int, float]]]:
    """Yield a list that fills with (trials so far, megabytes of this process and its own)."""
    import threading

    seen: list[tuple[int, float]] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(2.0):
            number = len(os.listdir(f"{url}/trials")) if os.path.isdir(f"{url}/trials") else 0
            seen.append((number, megabytes()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def megabytes() -> float:
    """Return the memory that this process and those it started hold alone."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue  # it has ended
    return total / 1e6


def arguments(words: list[str]) -> dict[str, Any]:
    """Return what stands as key=value."""
    kinds: dict[str, Callable[[str], Any]] = {
        "parts": lambda text: tuple(text.split(",")),
        "rung_s": float,
    }
    pairs = (word.split("=", 1) for word in words)
    return {key: kinds[key](value) for key, value in pairs}


if __name__ == "__main__":
    main(**arguments(sys.argv[1:]))
