"""Records as a study of Optuna: opened again by Optuna's own journal, it says the same."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from support import searches

from raypose.tuning.journal import STATES, journal, to_study
from raypose.tuning.records import Trial


def opened(tmp_path: Path, trials: list[Trial]) -> optuna.Study:
    path = tmp_path / "study.log"
    path.write_bytes(journal("s3://bucket/searches/postures-1a2b3c4d", trials))
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="postures-1a2b3c4d", storage=storage)


def test_a_journal_opened_again_holds_the_same(tmp_path: Path) -> None:
    trials = [searches.trial(k) for k in range(30)]
    trials.append(searches.trial(30, state="running", scores={1: 0.5}))
    assert {trial.state for trial in trials} == set(STATES)
    study = opened(tmp_path, trials)
    assert study.direction.name == "MAXIMIZE"
    for trial, found in zip(trials, study.trials, strict=True):
        assert found.state is STATES[trial.state]
        assert found.params == pytest.approx(trial.params)
        assert found.intermediate_values == trial.scores
        assert found.value == (None if trial.state == "running" else trial.score)
        assert found.user_attrs["number"] == trial.number
        assert found.user_attrs["values"] == trial.values
        assert found.user_attrs.get("error", "") == trial.error
        assert found.datetime_start is not None
        assert found.datetime_start.timestamp() == trial.began
        if found.state.is_finished():
            assert found.duration is not None
            assert found.duration.total_seconds() == trial.seconds
        assert set(found.distributions) == set(trial.distributions)
    assert found.distributions["optim.learning_rate"] == searches.SPACE["optim.learning_rate"]
    finished = [trial for trial in trials if trial.state == "finished"]
    assert study.best_value == max(trial.score or 0.0 for trial in finished)


def test_it_can_be_gone_on_with_by_optuna(tmp_path: Path) -> None:
    study = opened(tmp_path, [searches.trial(k) for k in range(5)])
    asked = study.ask()
    asked.suggest_float("optim.learning_rate", 1e-6, 1e-3, log=True)
    study.tell(asked, 0.9)
    assert study.best_trial.number == 5


def test_records_without_parameters_have_states_and_scores() -> None:
    odd = [
        Trial(number=0, state="finished", values={"a": 1}, scores={1: 0.5}),
        searches.trial(1, state="stopped", params={"x": 2.0}, distributions={}),
        searches.trial(2, state="stopped", scores={1: 0.25}, params={"x": 9.0}, distributions={
            "x": '{"name": "FloatDistribution", "attributes": '
                 '{"step": null, "low": 0.0, "high": 1.0, "log": false}}'}),
        searches.trial(3, state="stopped", params={"x": 9.0}, distributions={"x": "{}"}),
        Trial(number=4, state="finished", values={}),
        Trial(number=5, values={"nan": float("nan")}),
    ]  # fmt: skip
    found = to_study("searches/s", odd).trials
    assert [trial.params for trial in found] == [{}] * 6
    assert [trial.state for trial in found[:3]] == [TrialState.COMPLETE, *[TrialState.PRUNED] * 2]
    assert found[2].value == 0.25
    assert found[4].state is TrialState.FAIL  # a complete one has a value
    assert found[5].user_attrs["values"] == {"nan": None}


def test_choices_that_are_lists_are_told_apart() -> None:
    lists = '{"name": "CategoricalDistribution", "attributes": {"choices": [[1, 2], [3], null]}}'
    made = searches.trial(0, params={"train.seeds": [3]}, distributions={"train.seeds": lists})
    (found,) = to_study("searches/s", [made]).trials
    assert found.params == {"train.seeds": "[3]"}


def test_nothing_is_said_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    to_study("searches/s", [searches.trial(0)])
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr() == ("", "")
