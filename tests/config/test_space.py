from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from raypose import config
from raypose.config import Config, lookup, parse_config, prove, space
from raypose.errors import ConfigError

CONDITIONAL: dict[str, Any] = {
    "optim.learning_rate": [
        {"loguniform": [1e-6, 1e-5], "when": {"optim.method": "full"}},
        {"loguniform": [1e-4, 1e-3], "when": {"optim.method": ["lora"]}},
    ],
    "optim.lora_rank": {"choice": [2, 4, 8], "when": {"optim.method": "lora"}},
    "optim.method": {"choice": ["full", "lora"]},
}


def searching(given: dict[str, Any], **settings: Any) -> Config:
    return parse_config({"search": {"space": given, **settings}})


def drawn(recipe: Config, number: int) -> dict[str, Any]:
    choose = space.at_random(random.Random(number))
    return space.draw(recipe.search.space, choose, lambda key: lookup(recipe, key))


def test_keys_are_asked_for_only_where_their_conditions_hold() -> None:
    recipe = searching(CONDITIONAL)
    methods = set()
    for number in range(50):
        point = drawn(recipe, number)
        methods.add(point["optim.method"])
        lora = point["optim.method"] == "lora"
        assert ("optim.lora_rank" in point) == lora
        low, high = (1e-4, 1e-3) if lora else (1e-6, 1e-5)
        assert low <= point["optim.learning_rate"] <= high
        assert list(point) == [key for key in CONDITIONAL if key in point]
    assert methods == {"full", "lora"}


def test_a_condition_on_what_the_recipe_settles() -> None:
    given = {"optim.lora_rank": {"choice": [2, 4], "when": {"optim.method": "lora"}}}
    assert drawn(searching(given), 0) == {}
    settled = parse_config({"optim": {"method": "lora"}, "search": {"space": given}})
    assert drawn(settled, 0).keys() == {"optim.lora_rank"}


def test_combinations_are_counted() -> None:
    def count(given: dict[str, Any]) -> int | None:
        recipe = searching(given)
        return space.combinations(recipe.search.space, lambda key: lookup(recipe, key))

    discrete = {key: CONDITIONAL[key] for key in ("optim.lora_rank", "optim.method")}
    assert count(discrete) == 1 + 3
    assert count({**discrete, "seed": {"integers": [0, 9], "step": 3}}) == (1 + 3) * 4
    assert count({**discrete, "augment.erase": {"uniform": [0, 0.3], "step": 0.1}}) == 16
    assert count(CONDITIONAL) is None
    assert count({}) == 1


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"choice": ["a", "b"]}, ["a", "b"]),
        ({"integers": [1, 6], "step": 2}, [1, 3, 5]),
        ({"uniform": [0.5, 1.0], "step": 0.25}, [0.5, 0.75, 1.0]),
    ],
)
def test_every_value_is_drawn_and_none_else(given: dict[str, Any], values: list[Any]) -> None:
    one = space.Distribution(**given)
    rng = random.Random(0)
    assert {one.at(rng.random()) for _ in range(200)} == set(values)
    assert one.all() == values
    assert one.at(0.0) == values[0]
    assert one.at(1.0) == values[-1]


def test_magnitudes_are_even_and_bounds_are_kept() -> None:
    one = space.Distribution(loguniform=(1e-6, 1e-2))
    assert math.isclose(one.at(0.5), 1e-4)
    assert 1e-6 <= one.at(0.0) < 1.0001e-6
    assert 0.9999e-2 < one.at(1.0) <= 1e-2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"choice": [1], "step": 1}, "step goes with uniform or integers"),
        ({"integers": [1, 4], "step": 0.5}, "a whole step"),
        ({"uniform": [0, 1], "step": 2}, "does not fit"),
        ({"choice": [1], "uniform": [0, 1]}, "exactly one of"),
    ],
)
def test_what_is_no_distribution(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        searching({"optim.epochs": given})


def test_conditions_name_keys_and_do_not_go_in_circles() -> None:
    with pytest.raises(ConfigError, match=r'optim\.metod: unknown key; did you mean "optim\.metho'):
        searching({"optim.lora_rank": {"choice": [2], "when": {"optim.metod": "lora"}}})
    circle = {
        "optim.epochs": {"choice": [1], "when": {"optim.batch_size": 64}},
        "optim.batch_size": {"choice": [64], "when": {"optim.epochs": 1}},
    }
    with pytest.raises(ConfigError, match="wait for each other"):
        searching(circle)


def test_a_point_that_is_no_recipe_is_found_by_drawing() -> None:
    given = {
        "optim.accumulate": {"choice": [1, 2]},
        "loss.name": {"choice": ["class_ce", "clip"]},
    }
    recipe = searching(given)  # each key alone is as it should be
    with pytest.raises(
        ConfigError, match=r"works with class_ce only.*at optim\.accumulate=2, loss"
    ):
        prove(recipe)
    given["optim.accumulate"] = {"choice": [1, 2], "when": {"loss.name": "class_ce"}}
    assert prove(searching(given)).num_points == 3


def test_sub_spaces_are_shared(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("optim.learning_rate: {choice: [1.0e-5, 2e-5]}\nseed: {integers: [0, 3]}\n")
    own = {"seed": {"choice": [7]}}
    recipe = searching(own, include=[str(mine), "methods"])
    assert recipe.search.include == ()
    assert set(recipe.search.space) == {
        "seed", "optim.learning_rate", "optim.method", "optim.lora_rank",
    }  # fmt: skip
    rate = recipe.search.space["optim.learning_rate"]
    assert isinstance(rate, space.Distribution)
    assert rate.choice == (1e-5, 2e-5)
    seed = recipe.search.space["seed"]
    assert isinstance(seed, space.Distribution)
    assert seed.choice == (7,)
    with pytest.raises(ConfigError, match='no such sub-space; did you mean "rates"'):
        searching({}, include=["rate"])


@pytest.mark.parametrize("name", sorted(config.shipped("spaces")))
def test_sub_spaces_that_ship_are_proven(name: str) -> None:
    recipe = searching({}, include=[name])
    idle = prove(recipe).idle
    assert all(one.startswith("optim.l") for one in idle)  # lora's own
    assert len(idle) < len(recipe.search.space)


def test_other_searches_are_named_by_a_word_of_python() -> None:
    recipe = parse_config({"search": {"from": ["first"]}})
    assert recipe.search.sources == ("first",)
    assert parse_config(config.dump(recipe)) == recipe
    assert config.parse_assignments(["search.from=a,b"]) == {"search.from": ["a", "b"]}
    assert config.override(recipe, {"search.from": ["b"]}).search.sources == ("b",)
    assert recipe.search_id == parse_config({}).search_id


def test_numbers_that_mean_the_same_are_one() -> None:
    """0.1 + 0.2 and 0.3: of a step, of a condition, and of what is counted."""
    given = {
        "augment.erase": {"uniform": [0, 0.3], "step": 0.1},
        "seed": {"choice": [1, 2], "when": {"augment.erase": 0.3}},
    }
    recipe = searching(given)
    assert prove(recipe) == (5, [])
    points = [drawn(recipe, number) for number in range(60)]
    assert {point["augment.erase"] for point in points} == {0.0, 0.1, 0.2, 0.3}
    assert all(("seed" in point) == (point["augment.erase"] == 0.3) for point in points)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data.val": {"choice": ["a", "b"]}}, r"data\.val: trials are compared on it"),
        ({"data.taxonomy": {"choice": ["yoga82"]}}, "trials are compared on it"),
        ({"name": {"choice": ["a", "b"]}}, "it changes nothing that a trial learns"),
        ({"storage": {"choice": ["a", "b"]}}, "it changes nothing that a trial learns"),
        ({"train.num_workers": {"choice": [1, 2]}}, "it changes nothing that a trial learns"),
        ({"cluster.num_cpus": {"choice": [4, 8]}}, "it changes nothing that a trial learns"),
        ({"search.num_trials": {"choice": [4, 8]}}, "it changes nothing that a trial learns"),
        ({"optim": {"choice": [{"epochs": 3}]}}, "is a section; name one of its keys"),
        ({"optim.epochs": {"choice": [3, 3.0]}}, "choice holds 3.0 twice"),
        (
            {"optim.epochs": {"choise": [3]}},
            r'optim\.epochs: choise: unknown key; did you mean "cho',
        ),
        ({"optim.epochs": {"integer": [1, 2]}}, r'integer: unknown key; did you mean "integers"'),
        (
            {"optim.epochs": [3, 4]},
            r"optim\.epochs: wants a distribution, such as {choice: \[16, 32",
        ),
        ({"optim.epochs": 3}, r"optim\.epochs: wants a distribution"),
        ({"optim.epochs": []}, r"optim\.epochs: wants a distribution"),
        ({"optim": {"epochs": {"choice": [3]}}}, "optim: epochs: unknown key"),
        ({"optim.epochs": {"uniform": [1]}}, r"optim\.epochs: uniform\.1: too few values"),
        ({"optim\nepochs": {"choice": [1]}}, r"unknown key"),
    ],
)
def test_what_no_search_can_mean(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as found:
        searching(given)
    assert "[_" not in str(found.value)
    assert "\n" not in str(found.value)


def test_large_spaces_are_not_written_out() -> None:
    given: dict[str, Any] = {
        "seed": {"integers": [0, 2_000_000_000]},
        "optim.epochs": {"choice": [1, 2], "when": {"seed": 3}},
    }
    assert prove(searching(given)).num_points is None
    several = {f"optim.{key}": {"integers": [1, 40]} for key in ("epochs", "batch_size")}
    several["optim.accumulate"] = {"integers": [1, 40]}
    held = dict.fromkeys(several, 1)
    given = {**several, "seed": {"choice": [1, 2], "when": held}}
    assert prove(searching(given)).num_points is None


def test_a_sub_space_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/dev/zero: not a file"):
        searching({}, include=["/dev/zero"])
    with pytest.raises(ConfigError, match="not a file"):
        searching({}, include=[str(tmp_path)])
