"""Campaigns of kills: a round or two in every test run, many by `make soak`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.commands import recipe_file, run
from support.processes import marked, none_left

from raypose import config, training
from raypose.config import Config
from raypose.training import checkpoint


@pytest.mark.ray
def test_a_killed_build_goes_on_with_ray_workers(
    raypose: str, tmp_path: Path, campaign_round: int
) -> None:
    words = ["synthesize", "d", "form=shards", "per_class=60", "size=96", "num_workers=2"]
    first = subprocess.Popen([raypose, *words], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    records = tmp_path / "d/_building"
    few = 4 + random.Random(campaign_round).randrange(8)
    while len(list(records.glob("*.json"))) < few and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "d/MANIFEST.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "d").glob("shard-*.parquet")}
    done = run(raypose, *words[:-1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(raypose, "shards", "verify", "d", cwd=tmp_path)
    assert done.stdout == "d: whole; 4920 pictures, 82 classes\n"
    again = {name: (tmp_path / "d" / name).stat().st_mtime_ns for name in kept}
    assert sum(again[name] == kept[name] for name in kept) >= 3


@pytest.mark.ray
def test_a_killed_run_resumes(
    raypose: str,
    tmp_path: Path,
    recipe: Config,
    cluster: None,
    capsys: pytest.CaptureFixture[str],
    campaign_round: int,
) -> None:
    made = config.override(recipe, {"optim.epochs": 12, "cluster.num_cpus": 3})
    path = recipe_file(tmp_path, made)
    url = training.locate(made).url
    mark = f"RAYPOSE_TEST={uuid.uuid4().hex}"
    environment = os.environ | dict([mark.split("=")])
    command: list[Any] = [raypose, "train", path]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 180
    while checkpoint.latest(url) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    reached = checkpoint.latest(url)
    assert reached is not None
    assert reached.epoch < 12
    # no worker goes on writing; idle agents of Ray's wait up to a minute for its head, then end
    assert none_left(mark, "Train"), marked(mark)
    training.train(made)
    told = capsys.readouterr().err
    assert f"resuming {made.run_id} after epoch" in told
    assert "epoch 1/12" not in told
    assert "epoch 12/12" in told
