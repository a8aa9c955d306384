from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from support.patience import until
from support.processes import TRIAL, descendants, environ_of

from raypose import config, storage, training, tuning
from raypose.captions.grammar import parse
from raypose.captions.nodes import searched
from raypose.clip import model
from raypose.config import Config
from raypose.errors import CaptionError, ConfigError, ResourceError, TrainError
from raypose.training import heap
from raypose.tuning import records
from raypose.tuning.decoded import Decoded

GRAMMAR = "{search:a photo of a person in |}<name>[search:{search:, <sanskrit>|, a pose}]"
SPACE = {
    "optim.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.backbone": {"choice": ["tiny", "tinier"]},
    "seed": {"integers": [0, 3]},
    "optim.warmup_fraction": {"uniform": [0.0, 0.2]},
}


def with_search(recipe: Config, **settings: Any) -> Config:
    tinier = {**recipe.model.architectures["tiny"], "embed_dim": 8}
    return config.override(
        recipe,
        {
            "model.architectures.tinier": tinier,
            "captions.grammar": GRAMMAR,
            "search": {"space": SPACE, "finalists": 0, **settings},
        },
    )


def test_a_search_writes_records_and_the_winner_and_goes_further(
    recipe: Config, cluster: None
) -> None:
    asked = with_search(recipe, num_trials=3, max_concurrent=2, grace_epochs=1)
    before = set(descendants(TRIAL))
    given: set[str] = set()

    def look() -> None:
        given.update(environ_of(until(lambda: set(descendants(TRIAL)) - before).pop()))

    looking = threading.Thread(target=look)
    looking.start()
    result = tuning.search(asked)
    looking.join()
    assert {f"{key}={value}" for key, value in heap.ENVIRONMENT.items()} <= given
    assert [trial["number"] for trial in result.trials] == [0, 1, 2]
    assert all(trial["error"] is None for trial in result.trials)
    assert {trial["state"] for trial in result.trials} <= {"finished", "stopped"}
    assert result.score == max(trial["score"] for trial in result.trials)
    assert result.values.keys() == {*SPACE, "captions.grammar"}
    assert not searched(parse(result.values["captions.grammar"]))
    assert result.trials[0]["parent"] == "default"
    winner = config.load(result.recipe)
    assert winner == result.config
    assert winner.optim.learning_rate == result.values["optim.learning_rate"]
    assert winner.name == recipe.name
    assert not winner.search.space
    assert training.finished(winner) is None  # trials are runs of their own
    assert {trial["run"] for trial in result.trials} == set(
        storage.list_folders(f"{result.url}/runs")
    )
    assert not [name for name in storage.list_folders(result.url) if name.startswith("tune-")]
    assert Decoded.count() == 0  # else the next would count it as another search
    assert tuning.finished(asked) is not None
    tried = {t["values"]["model.backbone"] for t in result.trials if t["state"] == "finished"}
    times = storage.read_json(f"{result.url}/latency.json")
    assert set(times) == tried
    assert all(each["ms"] > 0 for each in times.values())
    more = config.override(asked, {"search.num_trials": 4})
    assert more.search_id == asked.search_id
    assert tuning.finished(more) is None
    longer = tuning.search(more)
    assert longer.trials[:3] == result.trials
    assert len(longer.trials) == 4
    assert records.read_search(result.url).attempt == 2


def test_a_search_whose_trials_all_fail_says_why(recipe: Config, cluster: None) -> None:
    broken = config.override(
        with_search(recipe, num_trials=2, max_concurrent=1),
        {"captions.grammar": " ".join(["very"] * 60) + " <name>", "search.space": {
            "optim.learning_rate": {"choice": [1e-3, 2e-3]}}},
    )  # fmt: skip
    with pytest.raises(TrainError, match=r"every trial failed; most: .*tokens where the text towe"):
        tuning.search(broken)
    found = records.read_trials(f"{recipe.storage}/searches/{broken.search_id}")
    assert {trial.state for trial in found.values()} == {"failed"}


@pytest.mark.soak  # as test_course has it without training
def test_a_backbone_that_does_not_train_is_given_up(
    recipe: Config, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = {**recipe.model.architectures["tiny"], "vision_cfg": {"layers": "many"}}
    asked = config.override(
        recipe,
        {
            "model.architectures.odd": odd,
            "optim.epochs": 1,
            "search": {
                "space": {
                    "model.backbone": {"choice": ["odd", "tiny"]},
                    "optim.learning_rate": {"loguniform": [1e-4, 1e-2]},
                },
                "num_trials": 8,
                "max_concurrent": 1,
                "finalists": 0,
                "sampler": "random",
            },
        },
    )
    result = tuning.search(asked)
    failed = [trial for trial in result.trials if trial["state"] == "failed"]
    assert len(failed) == 3
    assert len(result.trials) == 8
    assert all("model.architectures.odd" in trial["error"] for trial in failed)
    assert result.values["model.backbone"] == "tiny"
    assert "model.backbone=odd is tried no more: 3 trials failed alike" in capsys.readouterr().err


def test_what_cannot_be_searched(recipe: Config, cluster: None) -> None:
    with pytest.raises(ConfigError, match=r"search\.space: empty"):
        tuning.search(recipe)
    both = {"search.space": {"captions.grammar": {"choice": ["<name>", "[search:a ]<name>"]}}}
    with pytest.raises(ConfigError, match=r"cannot hold search: choices"):
        tuning.search(config.override(recipe, both))
    absent = {"search.space": {"captions.preset": {"choice": ["name", "foto"]}}}
    with pytest.raises(CaptionError, match="no preset 'foto'; did you mean \"photo\""):
        tuning.search(config.override(recipe, absent))
    with pytest.raises(ConfigError, match=r"data\.val: not set"):
        tuning.search(config.override(with_search(recipe), {"data.val": ""}))
    held = config.override(with_search(recipe), {"train.resources": {"trainer": 1}})
    with pytest.raises(ResourceError, match="of the resource 'trainer'"):
        tuning.search(held)
    with pytest.raises(ResourceError, match=r"search\.max_concurrent=99 needs 100 CPUs"):
        tuning.search(with_search(recipe, max_concurrent=99))


def test_several_workers_a_trial(recipe: Config, cluster: None, tmp_path: Path) -> None:
    asked = config.override(
        with_search(recipe, num_trials=1), {"train.num_workers": 2, "optim.epochs": 1}
    )
    result = tuning.search(asked)
    (trial,) = result.trials
    assert trial["state"] == "finished"
    assert trial["epochs"] == 1


def test_the_best_are_tried_with_several_seeds_and_beside_plain_captions(
    recipe: Config, cluster: None
) -> None:
    space = {
        "optim.learning_rate": {"choice": [1e-3, 3e-3]},
        "captions.preset": {"choice": ["name", "photo"]},
    }
    asked = config.override(
        recipe,
        {
            "optim.epochs": 1,
            "data.test": recipe.data.val,
            "search": {
                "space": space,
                "num_trials": 2,
                "max_concurrent": 1,
                "finalists": 1,
                "final_seeds": 2,
            },
        },
    )
    result = tuning.search(asked)
    outcome = records.read_outcome(result.url)
    assert outcome is not None
    held = outcome.finals
    assert held is not None
    assert (held.seeds, held.chose) == ([0, 1], False)
    labels = [entry.label for entry in held.entries]
    assert labels[0] == f"trial {outcome.number}"
    assert labels[-1] == "control captions"
    assert held.entries[-1].values["captions.grammar"] == "a photo of a <name>."
    for entry in held.entries:
        assert len(entry.scores) == len(entry.val_scores) == 2
        assert entry.mean == pytest.approx(sum(entry.scores) / 2)
        assert 0 <= entry.interval[0] <= entry.mean <= entry.interval[1] <= 1
        assert entry.scores == pytest.approx(entry.val_scores)  # the same pictures here
    trial = result.trials[outcome.number]
    assert held.entries[0].val_scores[0] == pytest.approx(trial["score"])  # seed 0 was its own
    assert any(one.theirs == "control captions" for one in held.paired)
    assert any("caption" in note for note in result.notes)


def test_captions_are_scored_before_training_where_the_text_tower_is_trained(
    recipe: Config, cluster: None, tmp_path: Path
) -> None:
    made = model.build(recipe.model)
    model.save(made, tmp_path / "tower")
    given = {
        "model.backbone": f"local-dir:{tmp_path / 'tower'}",
        "optim.epochs": 1,
        "captions.grammar": GRAMMAR,
        "search": {
            "space": {"optim.learning_rate": {"loguniform": [1e-4, 1e-2]}},
            "num_trials": 2,
            "max_concurrent": 1,
            "finalists": 0,
        },
    }
    result = tuning.search(config.override(recipe, given))
    scored = storage.read_json(f"{result.url}/grammars.json")
    assert len([row for row in scored["grammars"] if not row["is_control"]]) == 6
    assert len([row for row in scored["grammars"] if row["is_control"]]) == 4
    best = next(row for row in scored["grammars"] if not row["is_control"])
    tried = {trial["parent"]: trial["values"] for trial in result.trials}
    assert "default" in tried
    if "captions" in tried:  # it is not the recipe's own
        assert tried["captions"]["captions.grammar"] == best["grammar"]
    else:
        assert tried["default"]["captions.grammar"] == best["grammar"]
