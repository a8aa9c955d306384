from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raypose import config
from raypose.errors import ConfigError, UsageError


def write(path: Path, document: object) -> str:
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_defaults_are_valid_and_frozen() -> None:
    made = config.Config()
    assert made.optim.peak_rate == 1e-5
    with pytest.raises(ValueError, match="frozen"):
        made.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"optim": {"learning_rat": 1e-5}},
            'optim.learning_rat: unknown key; did you mean "learning_rate"?',
        ),
        (
            {"learning_rate": 1e-5},
            'learning_rate: unknown key; did you mean "optim.learning_rate"?',
        ),
        (
            {"optim": {"epochs": 0}},
            "optim.epochs: input should be greater than or equal to 1, found 0",
        ),
        ({"optim": {"epochs": "many"}}, "optim.epochs: input should be a valid integer"),
        ({"name": "../x"}, "name: letters, digits, dots, dashes and underscores"),
        ({"name": "/abs"}, "name: letters, digits, dots, dashes and underscores"),
        ({"optim": 3}, "optim: is a section; keys and values are wanted"),
        ({"train": {"num_workers": 0}}, "train.num_workers: input should be greater than or equal"),
        ({"train": {"num_workers": [2]}}, "train.num_workers.1: too few values"),
        ({"train": {"num_workers": [0, 2]}}, "train.num_workers.0: input should be greater"),
        ({"train": {"resources": {"CPU": 1}}}, "train.resources: CPU: is said by train.cpus_per"),
        ({"train": {"seeds": [3, 4, 3]}}, "train.seeds: a seed is given twice"),
        ({"optim": {"learning_rate": True}}, "optim.learning_rate: a number is wanted, found True"),
        ({"optim": {"epochs": 10**400}}, "optim.epochs: input should be "),
        ({"1": 2}, "1: unknown key; known: "),
        ({"optim": {"optim": 2}}, "optim.optim: unknown key"),
        ({"[a]": 2}, "[a]: unknown key; known: "),
        ({"optim": {"1": 2}}, "optim.1: unknown key; known: "),
        ({"optim": {"[epochs]": 2}}, 'optim.[epochs]: unknown key; did you mean "epochs"?'),
        ({"optim": {"lora_rank": 10**9}}, "optim.lora_rank: input should be less than or equal"),
        ({"serve": {"limit": "6/min"}}, "a value such as 600/minute is wanted, found '6/min'"),
        ({"serve": {"keys": {"me": "rp_x"}}}, "raypose endpoint key prints them) is wanted"),
        (
            {"search": {"space": {"optim.learning_rat": {"choice": [1]}}}},
            'search.space: optim.learning_rat: unknown key; did you mean "learning_rate"?',
        ),
        (
            {"search": {"space": {"optim.epochs": {"choice": [0]}}}},
            "search.space: optim.epochs: input should be greater",
        ),
        (
            {"search": {"space": {"optim.epochs": {"uniform": [2, 1]}}}},
            "the lower bound 2.0 is not below the upper 1.0",
        ),
        (
            {"search": {"space": {"optim.epochs": {}}}},
            "wants exactly one of choice, uniform, loguniform, integers",
        ),
    ],
)
def test_wrong_documents_get_one_line(tmp_path: Path, document: object, message: str) -> None:
    path = write(tmp_path / "train.yaml", document)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_unreadable_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: not found; check the path"):
        config.load(str(tmp_path / "none.yaml"))
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not YAML"):
        config.load(str(bad))
    bad.write_text("- 1")
    with pytest.raises(ConfigError, match="a recipe is a mapping"):
        config.load(str(bad))


def test_overrides_reach_every_depth(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.yaml", {"model": {"backbone": "t", "architectures": {"t": {"a": 1}}}}
    )
    words = [
        "optim.learning_rate=3e-5",
        "model.architectures.t.a=2",
        "data.val=s3://b/k=v",
        "seed=7",
    ]
    made = config.load(path, config.parse_assignments(words))
    assert made.optim.learning_rate == 3e-5
    assert made.model.architectures["t"] == {"a": 2}
    assert made.data.val == "s3://b/k=v"
    assert made.seed == 7
    with pytest.raises(ConfigError, match="seed is a value, not a section"):
        config.override(made, {"seed.x": 1})
    with pytest.raises(UsageError, match="expected key=value"):
        config.parse_assignments(["seed"])


@given(rate=st.floats(1e-8, 1.0), epochs=st.integers(1, 10_000), text=st.text(max_size=20))
def test_dump_parses_back(rate: float, epochs: int, text: str) -> None:
    made = config.override(
        config.Config(),
        {"optim.learning_rate": rate, "optim.epochs": epochs, "data.train": text},
    )
    assert config.parse_config(config.dump(made)) == made
    assert config.parse_config(config.sparse(made)) == made


def test_run_id_follows_what_is_trained_only() -> None:
    base = config.Config()
    assert config.override(base, {"serve.port": 1234}).run_id == base.run_id
    assert config.override(base, {"cluster.num_cpus": 4}).run_id == base.run_id
    assert config.override(base, {"seed": 1}).run_id != base.run_id
    assert base.run_id.startswith("run-")


def test_every_setting_is_documented() -> None:
    for name, field in config.Config.model_fields.items():
        for key, inner in getattr(field.annotation, "model_fields", {}).items():
            assert inner.description, f"{name}.{key} has no docstring"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss.name": "clip", "optim.accumulate": 2},
            "optim.accumulate: loss.name=clip compares all pictures of a step",
        ),
        (
            {"optim.method": "lora", "train.sharding": "fsdp"},
            "train.sharding=fsdp: optim.method=lora merges a whole model",
        ),
        (
            {"loss.name": "siglip", "loss.parents_weight": 0.2},
            "loss: parents_weight is for name=class_ce only",
        ),
        (
            {"loss.name": "clip", "loss.label_smoothing": 0.1},
            "loss: label_smoothing has no meaning for name=clip",
        ),
    ],
)
def test_settings_that_do_not_go_together_say_so(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.override(config.Config(), changes)


def test_how_a_run_is_spread_is_no_part_of_its_name() -> None:
    base = config.Config()
    spread = {"train.num_workers": 4, "train.sharding": "fsdp", "train.compile": True}
    assert config.override(base, spread).run_id == base.run_id
    assert config.override(base, {"train.precision": "bf16"}).run_id != base.run_id
