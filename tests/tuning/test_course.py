"""The course of a search without Ray or training: scores are made up, records are real."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from raypose import captions, console, storage
from raypose.captions import taxonomy
from raypose.captions.grammar import parse
from raypose.captions.nodes import searched
from raypose.config import Config, parse_config
from raypose.errors import ConflictError, DataError
from raypose.tuning import records
from raypose.tuning.course import Course
from raypose.tuning.points import Points, default_params
from raypose.tuning.records import METRIC, Records, Trial
from raypose.tuning.rungs import Rungs

RATE = {"optim.learning_rate": {"loguniform": [1e-6, 1e-2]}}
GRAMMAR = "{search:a photo of a person in |}<name>[search:{search:, <sanskrit>|, a pose}]"


def searching(space: dict[str, Any], **settings: Any) -> Config:
    document = {"optim": {"epochs": 8}, "search": {"space": space, "num_trials": 12, **settings}}
    return parse_config(document)


def score_of(values: dict[str, Any], epoch: int) -> float:
    """Best at a rate of 1e-4, and better with every epoch."""
    away = abs(math.log10(values.get("optim.learning_rate", 1e-5)) + 4)
    return (1 - math.exp(-epoch / 3)) / (1 + away)


def go(course: Course, *, trials: int = 10**6, epochs: int = 8) -> None:
    """Carry a course out, one trial after another."""
    for _ in range(trials):
        trial = course.next()
        if trial is None:
            break
        first = course.records.trials[trial.number].epochs + 1
        for epoch in range(first, epochs + 1):
            metrics = {"epoch": epoch, METRIC: score_of(trial.values, epoch)}
            if not course.report(trial.number, metrics):
                break
        else:
            course.end(trial.number, "finished")


def summaries(url: str) -> list[dict[str, Any]]:
    left_out = ("seconds",)
    found = records.read_trials(url).values()
    return [{k: v for k, v in t.summary().items() if k not in left_out} for t in found]


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_a_killed_search_comes_to_what_an_undisturbed_one_comes_to(
    sampler: str, tmp_path: Path
) -> None:
    recipe = searching(RATE, sampler=sampler, reduction_factor=0)
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    go(Course(recipe, Records(whole)))
    go(Course(recipe, Records(killed)), trials=4)
    torn = Course(recipe, Records(killed))
    trial = torn.next()
    assert trial is not None
    torn.report(trial.number, {"epoch": 1, METRIC: score_of(trial.values, 1)})
    later = Course(recipe, Records(killed))
    go(later)
    found = records.read_trials(killed)
    assert found[trial.number].attempt == 2
    assert summaries(killed) == summaries(whole)
    with pytest.raises(ConflictError, match="taken over"):
        torn.report(trial.number, {"epoch": 2, METRIC: 0.5})
    assert summaries(killed) == summaries(whole)


def test_costs_are_summed_over_epochs_and_attempts(tmp_path: Path) -> None:
    url, config = str(tmp_path), searching(RATE)
    for epoch in (1, 2):  # the second by another attempt
        course = Course(config, Records(url))
        trial = course.next()
        assert trial is not None
        taken = {"cpu_hours": 0.5, "gpu_hours": 0.25, "bytes_read": 100}
        course.report(trial.number, {"epoch": epoch, METRIC: 0.5, **taken})
        assert trial.number == 0
    (found,) = records.read_trials(url).values()
    assert found.costs == {"cpu_hours": 1.0, "gpu_hours": 0.5, "bytes_read": 200}
    assert found.summary()["costs"] == found.costs


def test_halving_goes_on_from_the_records(tmp_path: Path) -> None:
    recipe = searching(RATE, sampler="random", grace_epochs=1, reduction_factor=2, num_trials=40)
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    go(Course(recipe, Records(whole)))
    for _ in range(8):
        go(Course(recipe, Records(parts)), trials=5)
    assert summaries(parts) == summaries(whole)
    found = records.read_trials(whole).values()
    stopped = [trial for trial in found if trial.state == "stopped"]
    assert 20 <= len(stopped) < 40
    assert {trial.epochs for trial in stopped} <= {1, 2, 4}
    best = records.best(found)[0]
    assert (best.state, best.rung, best.epochs) == ("finished", 3, 8)


def test_who_goes_on() -> None:
    rungs = Rungs(grace=2, factor=3, num_epochs=20)
    assert rungs.epochs == [2, 6, 18]
    assert Rungs(grace=2, factor=0, num_epochs=20).epochs == []
    assert Rungs(grace=8, factor=4, num_epochs=8).epochs == []
    rng = np.random.default_rng(0)
    kept = [rungs.goes_on(number, 2, rng.random()) for number in range(600)]
    assert kept[0]  # nothing to be held against
    assert 0.25 < sum(kept) / 600 < 0.45
    assert rungs.goes_on(700, 3, -1.0)  # no rung
    other = Rungs(grace=2, factor=3, num_epochs=20)
    other.fill([Trial(number=1, values={}, scores={2: 0.5, 6: 0.7})])
    assert not other.goes_on(2, 2, 0.4)
    assert other.goes_on(1, 2, 0.45)  # its own score holds nothing against it


def test_more_trials_extend_a_search_and_learn_from_it(tmp_path: Path) -> None:
    url = str(tmp_path)
    go(Course(searching(RATE, num_trials=10), Records(url)))
    before = summaries(url)
    further = Course(searching(RATE, num_trials=30), Records(url))
    assert len(further.points.study.trials) == 10
    go(further)
    assert summaries(url)[:10] == before
    rates = [trial["values"]["optim.learning_rate"] for trial in summaries(url)[10:]]
    near = sum(abs(math.log10(rate) + 4) < 1 for rate in rates)
    assert near > 12  # half by chance is 10


def test_a_space_that_is_used_up_ends_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"optim.epochs": {"choice": [8, 9]}, "seed": {"integers": [0, 2]}}
    url = str(tmp_path)
    go(Course(searching(given, num_trials=50), Records(url)))
    found = records.read_trials(url).values()
    points = {tuple(trial.values.items()) for trial in found}
    assert len(points) == len(found) == 6
    assert "every point has been tried: 44 trials less than asked" in capsys.readouterr().err


def test_the_recipe_itself_is_tried_first(tmp_path: Path) -> None:
    given = {**RATE, "optim.method": {"choice": ["full", "lora"]}}
    course = Course(searching(given), Records(str(tmp_path)))
    first = course.next()
    assert first is not None
    assert first.parent == "default"
    assert first.values == {"optim.learning_rate": 1e-5, "optim.method": "full"}
    second = course.next()
    assert second is not None
    assert second.parent == ""


def test_failures_of_one_backbone_are_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {**RATE, "model.backbone": {"choice": ["ViT-B-32", "RN50", "ViT-B-16"]}}
    course = Course(searching(given, num_trials=30, sampler="random"), Records(str(tmp_path)))
    failed = 0
    while (trial := course.next()) is not None:
        if trial.values["model.backbone"] == "RN50":
            failed += 1
            course.end(trial.number, "failed", error=f"out of memory at {failed} GB")
        else:
            course.report(trial.number, {"epoch": 8, METRIC: 0.5})
            course.end(trial.number, "finished")
    assert failed == 3
    assert "model.backbone=RN50 is tried no more: 3 trials failed alike" in capsys.readouterr().err
    again = Course(searching(given, num_trials=60, sampler="random"), Records(str(tmp_path)))
    while (trial := again.next()) is not None:
        assert trial.values["model.backbone"] != "RN50"
        again.report(trial.number, {"epoch": 8, METRIC: 0.5})
        again.end(trial.number, "finished")
    assert len(again.records.trials) == 60


def test_a_choice_that_did_well_once_is_kept(tmp_path: Path) -> None:
    given = {**RATE, "optim.method": {"choice": ["full", "lora"]}}
    course = Course(searching(given, num_trials=40, sampler="random"), Records(str(tmp_path)))
    while (trial := course.next()) is not None:
        if trial.number % 3 == 0:
            course.report(trial.number, {"epoch": 8, METRIC: 0.5})
            course.end(trial.number, "finished")
        else:
            course.end(trial.number, "failed", error="its process died")
    assert not course.points.given_up


def test_limits_end_a_search_and_leave_nothing_running(tmp_path: Path) -> None:
    recipe = searching(RATE, sampler="random", reduction_factor=0, stop_at=0.6, num_trials=200)
    course = Course(recipe, Records(str(tmp_path)))
    go(course)
    course.close()
    found = list(records.read_trials(str(tmp_path)).values())
    assert len(found) < 200
    assert max(trial.score or 0 for trial in found) >= 0.6
    assert {trial.state for trial in found} <= {"finished", "stopped"}
    assert "search.stop_at=0.6 is reached" in course.notes[0]
    late = searching(RATE, max_hours=1.0)
    over = Course(late, Records(str(tmp_path / "late")), before_s=3601)
    assert over.next() is None
    assert over.commonest() == ""  # none failed: the limit is what is told
    torn = Course(late, Records(str(tmp_path / "torn")))
    assert torn.next() is not None
    after = Course(late, Records(str(tmp_path / "torn")), before_s=3601)
    assert after.next() is None
    after.close()
    (left,) = records.read_trials(str(tmp_path / "torn")).values()
    assert left.state == "stopped"


def test_a_score_that_is_no_number_ranks_nothing(tmp_path: Path) -> None:
    course = Course(searching(RATE), Records(str(tmp_path)))
    trial = course.next()
    assert trial is not None
    assert course.report(trial.number, {"epoch": 1, METRIC: math.nan})
    course.end(trial.number, "finished")
    (found,) = records.read_trials(str(tmp_path)).values()
    assert (found.state, found.score, found.error) == ("failed", None, "it ended without a score")


def test_a_grammar_is_searched_branch_by_branch() -> None:
    """A choice in a branch not taken is no parameter of the trial."""
    points = Points(parse_config({"captions": {"grammar": GRAMMAR}, "search": {"space": RATE}}))
    seen = set()
    for number in range(40):
        point = points.ask(number)
        assert point is not None
        settled = parse(point.values["captions.grammar"])
        assert not searched(settled)
        said = point.params["grammar.2"] == 0
        assert ("grammar.2.0" in point.params) == said
        (caption,) = captions.evaluation_captions(settled, taxonomy.load("yoga82").cards[68])
        seen.add(caption)
    heads = ("a photo of a person in tree pose", "tree pose")
    assert seen == {head + tail for head in heads for tail in ("", ", Vrksasana", ", a pose")}


def test_presets_may_leave_something_open() -> None:
    points = Points(searching({"captions.preset": {"choice": ["name", "searched"]}}))
    for number in range(8):
        point = points.ask(number)
        assert point is not None
        asked = {key for key in point.params if key.startswith("searched.")}
        open_ = point.params["captions.preset"] == "searched"
        assert bool(asked) == ("captions.grammar" in point.values) == open_


def test_other_searches_are_learnt_from_where_they_fit() -> None:
    narrow = Points(searching({**RATE, "augment.erase": {"uniform": [0.0, 0.3]}}))
    fits = {"optim.learning_rate": 1e-4}
    trial = Trial(number=0, state="finished", values=fits, scores={1: 0.5})
    assert narrow.learn(trial)  # augment.erase was as the recipe says
    (told,) = narrow.study.trials
    assert told.params == {"optim.learning_rate": 1e-4, "augment.erase": 0.1}
    assert told.state == optuna.trial.TrialState.COMPLETE
    for values in (
        {"optim.learning_rate": 0.5},
        {"optim.learning_rate": 1e-4, "optim.method": "lora"},
        {"optim.learning_rate": 1e-4, "captions.grammar": "<name>"},
    ):
        other = Trial(number=0, state="finished", values=values, scores={1: 0.5})
        assert not narrow.learn(other), values


def test_choices_that_are_no_scalars() -> None:
    given = {"optim.betas": {"choice": [[0.9, 0.98], [0.9, 0.999]]}}
    points = Points(searching(given))
    found = [points.ask(number) for number in range(3)]
    assert found[2] is None
    assert {tuple(point.values["optim.betas"]) for point in found if point} == {
        (0.9, 0.98),
        (0.9, 0.999),
    }
    assert default_params(searching(given)).keys() <= {"optim.betas"}


def test_a_record_is_kept_while_storage_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Records(str(tmp_path))
    trial = found.write(Trial(number=0, values={}))
    folder = tmp_path / "trials"
    aside = tmp_path / "aside"
    folder.rename(aside)
    folder.write_text("a file in its place")
    trial = found.write(trial, scores={1: 0.5})
    assert "the record is kept" in capsys.readouterr().err
    folder.unlink()
    aside.rename(folder)
    found.write(Trial(number=1, values={}))
    assert records.read_trials(str(tmp_path))[0].scores == {1: 0.5}
    assert storage.list_files(str(folder)) == ["000000.json", "000001.json"]
    assert console.plural(2, "epoch") == "2 epochs"
    assert console.plural(2, "branch") == "2 branches"


def test_epochs_may_be_searched(tmp_path: Path) -> None:
    """A trial that has had all its own epochs is finished, and rungs go on to the longest."""
    given = {**RATE, "optim.epochs": {"choice": [2, 16]}}
    search = {"space": given, "num_trials": 30, "sampler": "random", "grace_epochs": 2}
    recipe = parse_config({"optim": {"epochs": 4}, "search": {**search, "reduction_factor": 2}})
    course = Course(recipe, Records(str(tmp_path)))
    assert course.rungs.epochs == [2, 4, 8]
    while (trial := course.next()) is not None:
        for epoch in range(1, trial.values["optim.epochs"] + 1):
            metrics = {"epoch": epoch, METRIC: score_of(trial.values, epoch)}
            if not course.report(trial.number, metrics):
                break
        else:
            course.end(trial.number, "finished")
    found = records.read_trials(str(tmp_path)).values()
    short = {trial.state for trial in found if trial.values["optim.epochs"] == 2}
    assert short == {"finished"}
    assert any(trial.state == "stopped" for trial in found)
    assert any("the recipe's optim.epochs=4 is not in the space" in note for note in course.notes)


def test_trials_that_are_let_go_begin_again(tmp_path: Path) -> None:
    course = Course(searching(RATE, num_trials=2), Records(str(tmp_path)))
    first = course.next()
    assert first is not None
    course.report(first.number, {"epoch": 1, METRIC: 0.2})
    course.take_back()
    assert not course.running
    again = course.next()
    assert again is not None
    assert (again.number, again.epochs) == (first.number, 1)


def test_a_record_is_of_the_trial_that_its_name_says(tmp_path: Path) -> None:
    found = Records(str(tmp_path))
    found.write(Trial(number=0, values={}))
    place = tmp_path / "trials/000001.json"
    place.write_text((tmp_path / "trials/000000.json").read_text())
    with pytest.raises(DataError, match=r"000001\.json: is the record of trial 0"):
        records.read_trials(str(tmp_path))
