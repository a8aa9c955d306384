"""What a search lives through, tried on a cluster that others use too."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
from support.commands import recipe_file
from support.patience import PATIENCE_S, until
from support.processes import TRIAL, descendants

from raypose import config, storage
from raypose.config import Config
from raypose.testing import embedded_s3
from raypose.testing.faults import Faults
from raypose.tuning import records


def searching(recipe: Config, name: str, **changes: Any) -> Config:
    search = {
        "space": {"optim.learning_rate": {"loguniform": [1e-4, 1e-2]}},
        "num_trials": 2,
        "max_concurrent": 1,
        "sampler": "random",
        "reduction_factor": 0,
        "finalists": 0,
    }
    return config.override(recipe, {"name": name, "search": search, **changes})


def begun(raypose: str, folder: Path, asked: Config, *pairs: str) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        [raypose, "search", recipe_file(folder, asked), *pairs],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
    )


@pytest.mark.soak  # as tests/campaigns kills a whole search
def test_two_searches_share_a_cluster_and_one_loses_a_worker(
    raypose: str, recipe: Config, cluster: None, tmp_path: Path
) -> None:
    before = set(descendants(TRIAL))
    first = searching(recipe, "first", **{"optim.epochs": 4})
    second = searching(recipe, "second", **{"optim.epochs": 2})
    urls = [storage.join(one.storage, "searches", one.search_id) for one in (first, second)]
    one = begun(raypose, tmp_path / "one", first)
    until(lambda: any(t.epochs for t in records.read_trials(urls[0]).values()), one)
    victim = next(pid for pid in descendants(TRIAL) if pid not in before)
    two = begun(raypose, tmp_path / "two", second)
    three = begun(raypose, tmp_path / "three", first)  # the same search as the first
    os.kill(victim, signal.SIGKILL)
    said = three.communicate(timeout=PATIENCE_S)[0]
    assert three.returncode == 1, said
    assert f"{first.search_id}: " in said.splitlines()[-1]
    for process, url in zip((one, two), urls, strict=True):
        said = process.communicate(timeout=PATIENCE_S)[0]
        assert process.returncode == 0, said
        trials = records.read_trials(url)
        assert {number: t.state for number, t in trials.items()} == dict.fromkeys(
            range(2), "finished"
        )
        assert {t.run for t in trials.values()} == set(storage.list_folders(f"{url}/runs"))
    assert all(t.epochs == 4 for t in records.read_trials(urls[0]).values())


@pytest.mark.own
def test_storage_that_is_too_busy_costs_no_trial(
    raypose: str, recipe: Config, tmp_path: Path
) -> None:
    faults = Faults({"503": 0.08, "500": 0.03, "cut": 0.02}, seed=3)
    asked = searching(recipe, "busy", **{"cluster.num_cpus": 3})
    url = storage.join(asked.storage, "searches", asked.search_id)
    with embedded_s3(faults):
        done = subprocess.run(
            [raypose, "search", recipe_file(tmp_path, asked)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 0, done.stderr
    assert sum(faults.counts[kind] for kind in faults.rates) > 10
    assert [t.state for t in records.read_trials(url).values()] == ["finished"] * 2
