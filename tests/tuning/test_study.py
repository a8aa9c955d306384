from __future__ import annotations

from functools import partial

import optuna
import pytest

from raypose import captions, config, storage, training, tuning
from raypose.captions import taxonomy
from raypose.captions.grammar import parse
from raypose.captions.nodes import searched
from raypose.config import Config
from raypose.errors import CaptionError, ConfigError, ResourceError, TrainError
from raypose.tuning import study

GRAMMAR = "{search:a photo of a person in |}<name>[search:{search:, <sanskrit>|, a pose}]"
SPACE = {
    "optim.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.backbone": {"choice": ["tiny", "tinier"]},
    "seed": {"integers": [0, 3]},
    "optim.warmup_fraction": {"uniform": [0.0, 0.2]},
}


def with_search(recipe: Config, **settings: object) -> Config:
    tinier = {**recipe.model.architectures["tiny"], "embed_dim": 8}
    return config.override(
        recipe,
        {
            "model.architectures.tinier": tinier,
            "captions.grammar": GRAMMAR,
            "search": {"space": SPACE, **settings},
        },
    )


def test_search_writes_the_winner_as_a_recipe(recipe: Config, cluster: None) -> None:
    result = tuning.search(with_search(recipe, num_trials=3, max_concurrent=2, grace_epochs=1))
    assert len(result.trials) == 3
    assert all(trial["error"] is None for trial in result.trials)
    assert result.score == max(trial["score"] for trial in result.trials)
    assert result.values.keys() == {*SPACE, "captions.grammar"}
    assert not searched(parse(result.values["captions.grammar"]))
    assert storage.read_json(f"{result.url}/trials.json") == result.trials
    winner = config.load(result.recipe)
    assert winner == result.config
    assert winner.optim.learning_rate == result.values["optim.learning_rate"]
    assert winner.name == recipe.name
    assert not winner.search.space
    assert training.finished(winner) is None  # trials are runs of their own


def test_a_search_whose_trials_all_fail_says_why(recipe: Config, cluster: None) -> None:
    broken = config.override(
        with_search(recipe, num_trials=2, max_concurrent=2),
        {"captions.grammar": " ".join(["very"] * 60) + " <name>", "search.space": {
            "optim.learning_rate": {"choice": [1e-3, 2e-3]}}},
    )  # fmt: skip
    with pytest.raises(TrainError, match=r"every trial failed; first: .*tokens where the text tow"):
        tuning.search(broken)


def test_a_grammar_is_searched_branch_by_branch(recipe: Config) -> None:
    """Asked of a real study: a choice in a branch not taken is no parameter of the trial."""
    asked_of = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ask = partial(study._draw, config=with_search(recipe))
    seen = set()
    for _ in range(40):
        trial = asked_of.ask()
        settled = parse(ask(trial)["captions.grammar"])
        assert not searched(settled)
        said = trial.params["grammar.2"] == 0
        assert ("grammar.2.0" in trial.params) == said
        (caption,) = captions.evaluation_captions(settled, taxonomy.load("yoga82").cards[68])
        seen.add(caption)
    heads = ("a photo of a person in tree pose", "tree pose")
    assert seen == {head + tail for head in heads for tail in ("", ", Vrksasana", ", a pose")}


def test_presets_may_leave_something_open(recipe: Config) -> None:
    space = {"captions.preset": {"choice": ["name", "searched"]}}
    ask = partial(study._draw, config=config.override(recipe, {"search.space": space}))
    asked_of = optuna.create_study()
    for _ in range(20):
        trial = asked_of.ask()
        settled = ask(trial)
        asked = {key for key in trial.params if key.startswith("searched.")}
        assert bool(asked) == bool(settled) == (trial.params["captions.preset"] == "searched")


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
    with pytest.raises(ResourceError, match=r"search\.max_concurrent=99 needs 100 CPUs"):
        tuning.search(with_search(recipe, max_concurrent=99))
