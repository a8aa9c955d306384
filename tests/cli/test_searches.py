"""`searches`: what lies in a storage root, shown, drawn and handed on."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from support import searches

from raypose.cli.main import main
from raypose.data import claims
from raypose.tuning import records
from raypose.tuning.records import Trial


@pytest.fixture
def trials() -> list[Trial]:
    """Records of all states."""
    made = [searches.trial(k) for k in range(50)]
    return [*made, searches.trial(50, state="running", scores={1: 0.125})]


@pytest.fixture
def root(tmp_path: Path, trials: list[Trial]) -> str:
    """A storage root with a search that was cut off."""
    found = str(tmp_path / "st")
    url = searches.search(found, notes=["rungs at epochs 1, 3 and 9"])
    searches.write(url, trials)
    return found


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_searches_are_listed_as_they_stand(
    root: str, trials: list[Trial], capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"storage={root}"
    (row,) = asked(capsys, "searches", at)["searches"]
    url = f"{root}/searches/postures-1a2b3c4d"
    assert (row["search"], row["url"], row["state"]) == ("postures-1a2b3c4d", url, "interrupted")
    assert sum(row["counts"].values()) == 51
    assert row["counts"]["running"] == 1
    top = records.best(trials)[0]
    assert (row["best"], row["score"]) == (top.number, top.score)
    assert row["hours"] == pytest.approx(sum(t.seconds for t in trials) / 3600, abs=1e-4)
    with claims.hold(url, what=url):
        assert asked(capsys, "searches", "list", at)["searches"][0]["state"] == "running"
    assert asked(capsys, "searches", "list", at)["searches"][0]["state"] == "interrupted"
    searches.outcome(url, trials)
    assert main(["searches", "list", at]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("postures-1a2b3c4d  finished  51 trials: 1 running, ")
    assert f"best {top.score:.4f}" in line


def test_one_that_is_damaged_hides_no_other(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = searches.search(root, "other")
    Path(other, "search.json").write_text("{")
    assert main(["searches", f"storage={root}", "--json"]) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["searches"]) == 1
    assert "other-1a2b3c4d/search.json: not a search" in shown.err


def test_a_search_is_shown_with_all_its_trials(
    root: str, trials: list[Trial], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["searches", "show", "postures", f"storage={root}"]
    found = asked(capsys, *words)
    assert [row["number"] for row in found["trials"]] == list(range(51))
    for row, trial in zip(found["trials"], trials, strict=True):
        assert row == json.loads(json.dumps(trial.summary()))
        assert {"number", "state", "values", "score", "epochs", "error"} <= row.keys()
    assert (found["outcome"], found["notes"]) == (None, ["rungs at epochs 1, 3 and 9"])
    assert main(words) == 0
    shown = capsys.readouterr().out
    top = records.best(trials)[0]
    assert f"best so far: trial {top.number}  {top.score:.4f}" in shown
    assert "rungs at epochs 1, 3 and 9" in shown
    head, *rows = shown[shown.index("\ntrial ") + 1 :].splitlines()
    assert head.split() == ["trial", "state", "score", "epochs", "rung", "seconds", "values"]
    assert rows[0].split()[0] == f"*{top.number}"
    assert rows[20] == "… 11 more, in --json; below, the last to begin"
    assert len(rows) == 41
    assert rows[-1].split()[:3] == ["50", "running", "0.1250"]
    searches.outcome(f"{root}/searches/postures-1a2b3c4d", trials)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"best: trial {top.number}" in shown
    assert "The winner is better than the default" in shown


def test_a_study_is_written_for_the_dashboard(
    root: str,
    trials: list[Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["searches", "study", "postures", f"storage={root}", "out=study.log"]
    for _ in range(2):  # one of ours is written over
        assert asked(capsys, *words)["study"] == "study.log"
    storage = JournalStorage(JournalFileBackend("study.log"))
    study = optuna.load_study(study_name="postures-1a2b3c4d", storage=storage)
    assert len(study.trials) == len(trials)
    Path("study.log").write_text("mine")
    assert main(words) == 2
    assert "is there already, and nothing of raypose's" in capsys.readouterr().err
    assert Path("study.log").read_text() == "mine"
    assert main([*words, "force=true"]) == 0
    assert Path("study.log").read_bytes().startswith(b'{"op_code":0')
    assert [path.name for path in tmp_path.iterdir() if "study" in path.name] == ["study.log"]


@pytest.mark.skipif(find_spec("optuna_dashboard") is not None, reason="the dashboard is here")
def test_a_dashboard_that_is_not_here_is_one_line(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["searches", "study", "postures", f"storage={root}", f"out={tmp_path}/s.log"]
    assert main([*words, "dashboard=true"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("optuna-dashboard is not here: pip install optuna-dashboard")
    assert not (tmp_path / "s.log").exists()


def test_a_page_is_written_beside_the_records(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["searches", "report", "postures", f"storage={root}"]
    beside = f"{root}/searches/postures-1a2b3c4d/report.html"
    assert asked(capsys, *words)["page"] == beside
    assert "content=raypose" in Path(beside).read_text()
    (tmp_path / "mine.html").write_text("mine")
    assert main([*words, f"out={tmp_path}/mine.html"]) == 2
    assert main([*words, f"out={tmp_path}/page.html"]) == 0
    assert (tmp_path / "page.html").read_text() == Path(beside).read_text()
    assert len(records.read_trials(f"{root}/searches/postures-1a2b3c4d")) == 51


def test_a_name_that_is_not_there_suggests_another(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("show", "study", "report"):
        assert main(["searches", verb, "posture-1a2b3c4d", f"storage={root}"]) == 3
        assert 'did you mean "postures-1a2b3c4d"?' in capsys.readouterr().err
    assert main(["searches", f"storage={root}/none"]) == 0
    assert "no search in" in capsys.readouterr().out


def test_looking_is_light(root: str) -> None:
    code = (
        "import sys; from raypose.cli.main import main\n"
        f"assert main(['searches', 'list', 'storage={root}']) == 0\n"
        f"assert main(['searches', 'show', 'postures', 'storage={root}']) == 0\n"
        "assert not {'torch', 'ray', 'open_clip', 'optuna', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
