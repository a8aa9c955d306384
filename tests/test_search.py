from __future__ import annotations

import pytest

from raypose import config, search, storage, train
from raypose.config import Config
from raypose.errors import ConfigError, ResourceError, TrainError

SPACE = {
    "optim.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "model.backbone": {"choice": ["tiny", "tinier"]},
    "captions.preset": {"choice": ["name", "photo"]},
    "seed": {"integers": [0, 3]},
    "optim.warmup_fraction": {"uniform": [0.0, 0.2]},
}


def with_search(recipe: Config, **settings: object) -> Config:
    tinier = {**recipe.model.architectures["tiny"], "embed_dim": 8}
    return config.override(
        recipe,
        {"model.architectures.tinier": tinier, "search": {"space": SPACE, **settings}},
    )


@pytest.mark.slow
def test_search_writes_the_winner_as_a_recipe(recipe: Config, cluster: None) -> None:
    result = search.run(with_search(recipe, num_trials=3, max_concurrent=2, grace_epochs=1))
    assert len(result.trials) == 3
    assert all(trial["error"] is None for trial in result.trials)
    assert result.score == max(trial["score"] for trial in result.trials)
    assert result.values.keys() == SPACE.keys()
    assert storage.read_json(f"{result.url}/trials.json") == result.trials
    winner = config.load(result.recipe)
    assert winner == result.config
    assert winner.optim.learning_rate == result.values["optim.learning_rate"]
    assert winner.name == recipe.name
    assert not winner.search.space
    assert train.finished(winner) is None  # trials are runs of their own


@pytest.mark.slow
def test_a_search_whose_trials_all_fail_says_why(recipe: Config, cluster: None) -> None:
    broken = config.override(
        with_search(recipe, num_trials=2, max_concurrent=2),
        {"captions.grammar": " ".join(["very"] * 60) + " <name>", "search.space": {
            "optim.learning_rate": {"choice": [1e-3, 2e-3]}}},
    )  # fmt: skip
    with pytest.raises(TrainError, match=r"every trial failed; first: .*tokens where the text tow"):
        search.run(broken)


def test_what_cannot_be_searched(recipe: Config, cluster: None) -> None:
    with pytest.raises(ConfigError, match=r"search\.space: empty"):
        search.run(recipe)
    with pytest.raises(ConfigError, match=r"data\.val: not set"):
        search.run(config.override(with_search(recipe), {"data.val": ""}))
    with pytest.raises(ResourceError, match=r"search\.max_concurrent=99 needs 100 CPUs"):
        search.run(with_search(recipe, max_concurrent=99))
