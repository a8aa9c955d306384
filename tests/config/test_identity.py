from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import support

from raypose import config
from raypose.config import Config, identity

DEFAULTS = Path(support.__file__).with_name(f"defaults-{identity.FORMAT}.json")


def flat(document: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted key → value."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        inner = isinstance(value, dict) and not above
        found |= flat(value, f"{key}.") if inner else {f"{above}{key}": value}
    return found


def test_a_changed_default_raises_the_format() -> None:
    """Else runs of before would be taken for others. New keys are free to come."""
    then, now = flat(json.loads(DEFAULTS.read_text())), flat(config.dump(Config()))
    free = {f"search.{key}" for key in identity.NOT_OF_A_SEARCH}  # no id has them
    free |= {key for key in then if key.startswith(tuple(f"{s}." for s in ("serve", "cluster")))}
    changed = {k: now.get(k) for k, value in then.items() if now.get(k) != value and k not in free}
    assert not changed, f"raise identity.FORMAT, and write the defaults to {DEFAULTS.name}'s heir"


def test_ids_stay() -> None:
    """Written down once: what these documents were called must hold for good."""
    recipe = config.override(
        Config(), {"name": "yoga", "optim.learning_rate": 3e-5, "model.backbone": "ViT-B-16"}
    )
    assert recipe.run_id == "yoga-06086bd0"
    assert config.override(recipe, {"search.space": {"seed": {"integers": [0, 3]}}}).search_id == (
        "yoga-70af1a01"
    )


def test_a_key_at_its_default_is_as_good_as_none() -> None:
    sparse = {"name": "a", "optim": {"epochs": 3}}
    recipe = config.parse_config(sparse)
    assert config.parse_config(config.dump(recipe)).run_id == recipe.run_id
    assert config.override(recipe, {"loss.label_smoothing": 0.0}).run_id == recipe.run_id
    assert identity.run_hash(sparse) == recipe.run_id.removeprefix("a-")


def test_how_far_a_search_goes_is_not_what_it_is() -> None:
    space = {"search.space": {"optim.learning_rate": {"loguniform": [1e-6, 1e-4]}}}
    base = config.override(Config(), space)
    for key in ("search.num_trials", "search.max_concurrent", "train.num_workers"):
        assert config.override(base, {key: 7}).search_id == base.search_id
    for key, value in (("search.grace_epochs", 7), ("seed", 7)):
        assert config.override(base, {key: value}).search_id != base.search_id
    assert config.override(base, space).run_id == Config().run_id
