"""The examples run by themselves, in an empty folder, and come to something."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.patience import PATIENCE_S

from raypose import config
from raypose.releases import registry
from raypose.tuning import records

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.own


def run(name: str, folder: Path, *words: str) -> str:
    """What an example prints; it starts a Ray of its own, whatever else there is."""
    hidden = ("RAY_ADDRESS", "RAYPOSE_STORAGE", "RAYPOSE_QUIET")
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def figure(pattern: str, text: str) -> float:
    found = re.search(rf"{pattern} (\d\.\d+)", text)
    assert found, text
    return float(found[1])


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*")} - {"__pycache__"} == {
        "first_model.py",
        "own_captions.py",
        "search.py",
    }


@pytest.mark.soak  # as tests/test_api.py has a script of its own
def test_a_first_model(tmp_path: Path) -> None:
    told = run("first_model.py", tmp_path)
    assert "packed 1600 pictures of 4 classes" in told
    assert "{'val': 320, 'train': 1280}" in told
    assert figure("validation top-1", told) > 0.5
    assert figure("\ntop-1", told) == pytest.approx(figure("validation top-1", told), abs=0.001)
    assert "error: not a picture in a known" in told
    (row,) = registry.overview(str(tmp_path / "raypose-data"))
    assert f"Model({row['release']}, 4 classes of pictures, small)" in told
    made = {"classes.yaml", "pictures", "raypose-data", "shards"}
    assert {path.name for path in tmp_path.iterdir()} == made


@pytest.mark.soak  # as tests/test_api.py has a search and its winner
def test_a_search(tmp_path: Path) -> None:
    told = run("search.py", tmp_path)
    (found,) = (tmp_path / "raypose-data/searches").iterdir()
    trials = records.read_trials(str(found)).values()
    assert len(trials) == 4
    assert [trial.error for trial in trials] == [""] * 4
    best = max(trial.score or 0 for trial in trials)
    assert f"# winner of 4 trials, val_balanced_accuracy {best:.4f}" in told
    winner = config.override(config.load(str(found / "winner.yaml")), {"optim.epochs": 5})
    assert f"{winner.run_id}: validation balanced accuracy" in told
    assert figure("validation balanced accuracy", told) > 0.35  # chance is 0.25


@pytest.mark.soak
def test_captions_of_ones_own(tmp_path: Path) -> None:
    told = run("own_captions.py", tmp_path)
    for line in (
        "evaluated  someone doing tree pose, Vrksasana, weight on one foot",
        "in all     6 captions of tree pose",
        "holds      for 82 classes of yoga82: 492 captions",
        'refused    captions: column 13: no field <nmae>; did you mean "name"?',
        "control    photo: a photo of a shooting bow pose.",
        "says: a photo of a person in plank pose, Kumbhakasana, weight on hands and feet",
    ):
        assert line in told
    assert figure("trained    validation top-1", told) > 0.4  # chance is 0.25
