from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypose import config
from raypose.captions import taxonomy
from raypose.config import Config, reading
from raypose.errors import ConfigError, TaxonomyError, UsageError


@pytest.mark.parametrize(
    ("text", "wanted", "value"),
    [
        ("/data/photos #2", str, "/data/photos #2"),
        ("2024", str, "2024"),
        ("no", str, "no"),
        ("a: b", str, "a: b"),
        ("[x]", str, "[x]"),
        ("null", str, "null"),
        ("null", str | None, None),
        ("", str | None, None),
        ("", str, ""),
        ("full", Literal["full", "lora"], "full"),
        ("3", int, 3),
        ("3e-5", float, 3e-5),
        ("1_000", int, 1000),
        ("no", bool, False),
        ("null", bool | None, None),
        ("true", bool | None, True),
        ("5,10,20", tuple[int, ...], [5, 10, 20]),
        ("[5, 10]", tuple[int, ...], [5, 10]),
        ("no, yes", list[str], ["no", "yes"]),
        ("Boat #2,Tree", list[str], ["Boat #2", "Tree"]),
        ("[no, 'a, b']", list[str], ["no", "a, b"]),
        ("[0.9, 0.98]", tuple[float, float], [0.9, 0.98]),
        ("{a: 1, b: no}", dict[str, Any], {"a": 1, "b": False}),
        ("{a: 1, b: no}", dict[str, str], {"a": "1", "b": "no"}),
        ("1:30", Any, "1:30"),
        ("9" * 5000, int, float("inf")),
        ("2024-01-01", Any, "2024-01-01"),
    ],
)
def test_a_value_is_what_its_key_takes(text: str, wanted: Any, value: Any) -> None:
    assert reading.parse_value(text, wanted, where="key") == value
    assert type(reading.parse_value(text, wanted, where="key")) is type(value)


@given(st.text())
def test_text_stays_as_it_is(text: str) -> None:
    assert config.parse_assignments([f"data.train={text}"]) == {"data.train": text}


def test_recipes_take_text_for_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: 2024\ndata: {train: /a #1, val: 'no', taxonomy: on}\n"
        "optim: {learning_rate: 3e-5, epochs: 7}\n"
        "model: {architectures: {off: {embed_dim: 16, vision_cfg: {timm_pool: avg, x: no}}}}\n"
        "search: {space: {captions.preset: {choice: [no, 1]}, optim.epochs: {choice: [1, 2]}}}\n"
    )
    with pytest.raises(ConfigError, match="not YAML"):
        config.load(str(path))  # a comment within braces: nothing is guessed
    path.write_text(path.read_text().replace("/a #1", "/a#1"))
    recipe = config.load(str(path))
    assert recipe.name == "2024"
    assert (recipe.data.train, recipe.data.val, recipe.data.taxonomy) == ("/a#1", "no", "on")
    assert recipe.optim.learning_rate == 3e-5
    assert recipe.model.architectures["off"]["vision_cfg"] == {"timm_pool": "avg", "x": False}
    assert recipe.search.space["captions.preset"].choice == ("no", "1")
    assert recipe.search.space["optim.epochs"].choice == (1, 2)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("optim: {epochs: 1}\nname: a\noptim: {seed: 2}\n", 3, "optim"),
        ("optim:\n  epochs: 1\n  epochs: 1\n", 3, "epochs"),
        ("{name: a, name: a}", 1, "name"),
    ],
)
def test_no_key_stands_twice(tmp_path: Path, text: str, line: int, key: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"r.yaml: line {line}: {key} stands here again"):
        config.load(str(path))
    with pytest.raises(TaxonomyError, match=rf"r.yaml: line {line}: {key} stands here again"):
        taxonomy.load(str(path))


def test_pairs_are_given_once() -> None:
    for words in (["optim={epochs: 3}", "optim.epochs=4"], ["optim.epochs=4", "optim={seed: 3}"]):
        with pytest.raises(UsageError, match=r"optim\.epochs is a part of optim, which is given"):
            config.parse_assignments(words)
    with pytest.raises(UsageError, match=r"optim\.epochs is given twice"):
        config.parse_assignments(["optim.epochs=1", "optim.epochs=2"])


def test_merged_keys_may_be_overridden() -> None:
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n"
    assert reading.typed(reading.parse_yaml(text, where="t"), Any)["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    "text", ["[" * 3000, "a: [", "a: b\x00c", "!!python/object:os.system x", "a: \t- b"]
)
def test_what_is_no_yaml_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"r\.yaml: not YAML") as caught:
        config.load(str(path))
    assert "\n" not in str(caught.value)


def test_class_cards_are_all_text(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        "name: 66\nclasses:\n- {id: 2024, names: [no]}\n- {id: on, names: [yes, 1.0]}\n"
    )
    loaded = taxonomy.load(str(path))
    assert loaded.name == "66"
    assert loaded.ids == ("2024", "on")
    assert loaded.cards[1].names == ("yes", "1.0")
    assert taxonomy.parse(loaded.to_dict(), where="again") == loaded
    assert taxonomy.format_taxonomy(loaded)


def test_keys_know_what_they_take() -> None:
    assert reading.annotation_of(Config, "optim.epochs") is not Any
    assert reading.annotation_of(Config, "optim.none") is Any
    assert reading.is_text(reading.annotation_of(Config, "data.train"))
    assert not reading.is_text(reading.annotation_of(Config, "optim.betas"))


def test_aliases_do_not_multiply_without_end(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)]
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="its aliases make over 1000000 values of it"):
        config.load(str(path))
