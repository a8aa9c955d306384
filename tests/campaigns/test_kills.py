"""Campaigns of kills: a round or two in every test run, many by `make soak`."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.commands import recipe_file, run
from support.patience import until
from support.processes import marked, none_left

from raypose import config, inference, releases, storage, training, tuning
from raypose.config import Config
from raypose.data import manifests, packing
from raypose.inference import labelling
from raypose.training import checkpoint, tracking
from raypose.tuning import records

pytestmark = pytest.mark.own


def test_a_killed_build_goes_on_with_ray_workers(
    raypose: str, tmp_path: Path, campaign_round: int
) -> None:
    words = ["synthesize", "d", "form=shards", "per_class=60", "size=96", "num_workers=2"]
    first = subprocess.Popen([raypose, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "d/_building"
    few = 4 + random.Random(campaign_round).randrange(8)
    until(lambda: len(list(records.glob("*.json"))) >= few, first, every_s=0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "d/MANIFEST.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "d").glob("shard-*.parquet")}
    done = run(raypose, *words[:-1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run(raypose, "shards", "verify", "d", cwd=tmp_path)
    assert done.stdout == "d: whole; 4920 pictures, 82 classes\n"
    again = {name: (tmp_path / "d" / name).stat().st_mtime_ns for name in kept}
    assert sum(again[name] == kept[name] for name in kept) >= 3


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
    until(lambda: checkpoint.latest(url), first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    reached = checkpoint.latest(url)
    assert reached is not None
    assert reached.epoch < 12
    # no worker goes on writing; idle agents of Ray's wait up to a minute for its head, then end
    assert none_left(mark, "Train"), marked(mark)
    training.train(made, in_process=True)
    told = capsys.readouterr().err
    after = re.search(rf"resuming {made.run_id} after epoch (\d+) of 12", told)
    assert after is not None
    assert int(after[1]) >= reached.epoch
    lines = tracking.read(storage.join(url, tracking.FILE))
    assert [line["epoch"] for line in lines] == list(range(1, 13))


def test_a_killed_classification_goes_on(
    raypose: str,
    trained: Config,
    pictures: Path,
    cluster: None,
    tmp_path: Path,
    campaign_round: int,
) -> None:
    """What is done is not read again, and the table is that of an undisturbed one, to the byte."""
    source, whole, out = (str(tmp_path / name) for name in ("d", "whole.parquet", "t.parquet"))
    packing.build(str(pictures / "train"), source, packing.Packing(rows_per_shard=1))
    names = [shard.name for shard in manifests.read_manifest(source).shards]
    options = labelling.Options(top_k=5)  # as the command has it
    inference.label(releases.Model.load("tiny", storage=trained.storage), source, whole, options)
    words = ["classify", "tiny", source, f"out={out}", f"storage={trained.storage}"]
    first = subprocess.Popen([raypose, *words, "cluster.num_cpus=3"], stderr=subprocess.DEVNULL)
    few = 1 + random.Random(campaign_round).randrange(len(names) // 3)
    until(lambda: len(_parts(out)) >= few, first, every_s=0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not Path(out).exists()
    for number in _parts(out):  # to read one of these again would fail
        storage.delete_file(f"{source}/{names[number]}")
    inference.label(releases.Model.load("tiny", storage=trained.storage), source, out, options)
    assert Path(out).read_bytes() == Path(whole).read_bytes()


def _parts(out: str) -> list[int]:
    """Numbers of the shards whose part of a table is written."""
    found = storage.list_files(labelling.parts_url(out))
    return [int(name[5:10]) for name in found if re.fullmatch(labelling.OURS, name)]


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, dict[int, float | None]]:
    """Name → scores by trial of a search that nobody killed."""
    return {}


def test_a_killed_search_comes_to_what_an_undisturbed_one_comes_to(
    raypose: str,
    tmp_path: Path,
    recipe: Config,
    cluster: None,
    campaign_round: int,
    undisturbed: dict[str, dict[int, float | None]],
) -> None:
    made = config.override(
        recipe,
        {
            "optim.epochs": 3,
            "cluster.num_cpus": 3,
            "search": {
                "space": {"optim.learning_rate": {"loguniform": [1e-4, 1e-2]}},
                "num_trials": 4,
                "max_concurrent": 2,
                "sampler": "random",
                "reduction_factor": 0,
                "finalists": 0,
            },
        },
    )
    if not undisturbed:
        result = tuning.search(config.override(made, {"storage": str(tmp_path / "whole")}))
        undisturbed["scores"] = {trial["number"]: trial["score"] for trial in result.trials}
        undisturbed["winner"] = {result.values["optim.learning_rate"]: result.score}
    path = recipe_file(tmp_path, made)
    url = storage.join(made.storage, "searches", made.search_id)
    rng = random.Random(campaign_round)
    for _ in range(1 + campaign_round % 2):
        first = subprocess.Popen([raypose, "search", path], stderr=subprocess.DEVNULL)
        until(lambda one=first: records.read_trials(url) or one.poll() is not None)
        time.sleep(rng.uniform(0.0, 6.0))
        first.send_signal(signal.SIGKILL)
        first.wait()
    tuning.search(made)
    found = records.read_trials(url)
    assert sorted(found) == [0, 1, 2, 3]
    assert {trial.state for trial in found.values()} == {"finished"}
    runs = storage.list_folders(storage.join(url, "runs"))
    assert sorted(trial.run for trial in found.values()) == runs
    scores = {number: trial.score for number, trial in found.items()}
    assert scores == pytest.approx(undisturbed["scores"])
    outcome = records.read_outcome(url)
    assert outcome is not None
    winner = {outcome.values["optim.learning_rate"]: outcome.score}
    assert winner == pytest.approx(undisturbed["winner"])
